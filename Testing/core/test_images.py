"""Volumes in and out: voxels and geometry against nibabel and SimpleITK, and every kind of broken file."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.data import images_nifti
from VoCoCore.data.cases import Case, Source
from VoCoCore.data.images import content_hash, read_case, read_header, read_image, read_images, write_image
from VoCoCore.data.volume import ImageError
from VoCoCore.errors import DataError
from VoCoCore.geometry import spacing_of

AFFINE = np.array([[-2.0, 0, 0, 50], [0, 1.5, 0, -20], [0, 0, 3, 7], [0, 0, 0, 1]])


def ramp(shape: tuple[int, ...] = (8, 7, 6), dtype: type = np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Any rotation, mirrored or not, with any voxel size and origin."""
    numbers = st.floats(-1, 1).map(lambda value: round(value, 3))
    matrix = np.array(draw(st.lists(numbers, min_size=9, max_size=9))).reshape(3, 3) + 2.5 * np.eye(3)
    axes, _ = np.linalg.qr(matrix)
    flips = draw(st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3))
    spacing = draw(st.tuples(*[st.floats(0.3, 5).map(lambda value: round(value, 3))] * 3))
    affine = np.eye(4)
    affine[:3, :3] = axes * flips * spacing
    affine[:3, 3] = draw(st.tuples(*[st.integers(-300, 300)] * 3))
    return affine


@settings(max_examples=15, deadline=None)
@given(affines(), st.tuples(*[st.integers(2, 9)] * 3), st.sampled_from((".nii", ".nii.gz", ".nrrd", ".mha")))
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray, shape: tuple[int, ...], ending: str
) -> None:
    path = tmp_path_factory.mktemp("images") / f"Bäckenübersicht{ending}"
    write_image(path, ramp(shape), affine)
    volume, header = read_image(path), read_header(path)
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, ramp(shape)) and header.shape == shape
    assert np.allclose(volume.affine, affine, atol=1e-3) and np.allclose(header.affine, affine, atol=1e-3)
    # An independent reader puts the last voxel at the same place in the patient.
    image = sitk.ReadImage(str(path))
    last = [n - 1 for n in shape]
    place = np.array(image.TransformIndexToPhysicalPoint(last)) * (-1, -1, 1)
    assert np.allclose(place, (affine @ [*last, 1])[:3], atol=1e-3)
    assert image.GetPixel(last) == ramp(shape)[-1, -1, -1]
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64, ">i2", ">f4"])
def test_unscaled_values_keep_their_type(tmp_path: Path, dtype: str, ending: str) -> None:
    order = ">" if np.dtype(dtype).byteorder == ">" else "<"
    image = nib.Nifti1Image(ramp().astype(dtype), AFFINE, nib.Nifti1Header(endianness=order))
    image.set_data_dtype(np.dtype(dtype).newbyteorder("="))
    nib.save(image, tmp_path / f"a{ending}")
    volume = read_image(tmp_path / f"a{ending}")
    assert volume.array.dtype == np.dtype(dtype).newbyteorder("=") and volume.array.dtype.isnative
    assert np.array_equal(volume.array, ramp().astype(dtype)) and volume.array.flags.writeable
    assert np.allclose(volume.spacing, (2, 1.5, 3))


def test_scaled_integers_become_float32(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), AFFINE)
    image.header.set_slope_inter(0.5, -1024)
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_image(tmp_path / "a.nii.gz")
    assert volume.array.dtype == np.float32
    assert np.allclose(volume.array, nib.Nifti1Image.from_filename(tmp_path / "a.nii.gz").get_fdata())


def test_nifti_2_and_a_misnamed_compressed_file(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(ramp(), AFFINE), tmp_path / "two.nii.gz")
    (tmp_path / "packed.nii").write_bytes((tmp_path / "two.nii.gz").read_bytes())
    for name in ("two.nii.gz", "packed.nii"):
        assert np.array_equal(read_image(tmp_path / name).array, ramp())


def test_sform_comes_first_then_qform_then_voxel_sizes(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), None)
    image.set_sform(AFFINE, code=2)
    image.set_qform(np.diag([1.0, 1, 1, 1]), code=1)
    nib.save(image, tmp_path / "both.nii")
    both = read_header(tmp_path / "both.nii")
    assert np.allclose(both.affine, AFFINE) and "the qform in 3D Slicer" in both.notes[0]
    image.set_sform(AFFINE, code=1)  # then Slicer takes it too
    nib.save(image, tmp_path / "scanner.nii")
    assert not read_header(tmp_path / "scanner.nii").notes
    assert not read_header(save(tmp_path / "one_place.nii", ramp())).notes
    image.set_sform(AFFINE, code=0)
    nib.save(image, tmp_path / "qform.nii")
    assert np.allclose(read_header(tmp_path / "qform.nii").affine, np.eye(4))
    image.set_qform(np.diag([2.0, 3, 4, 1]), code=0)
    nib.save(image, tmp_path / "none.nii")
    header = read_header(tmp_path / "none.nii")
    assert np.allclose(header.affine, np.diag([2, 3, 4, 1])) and "no orientation" in header.notes[0]


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1e3), ("meter", 1e-3), ("mm", 1.0), (0, 1.0)])
def test_places_are_in_millimetres_whatever_the_unit_of_the_header(
    tmp_path: Path, unit: str | int, factor: float
) -> None:
    given = np.diag([factor, factor, factor, 1.0]) @ AFFINE
    for coded in ("sform", "qform", "neither"):
        image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), given)
        image.set_sform(given, code=int(coded == "sform"))
        image.set_qform(given, code=int(coded == "qform"))
        image.header.set_xyzt_units(unit, "sec")
        nib.save(image, tmp_path / "a.nii")
        affine = read_header(tmp_path / "a.nii").affine
        assert np.allclose(spacing_of(affine), spacing_of(AFFINE), rtol=1e-5)
        assert coded == "neither" or np.allclose(affine, AFFINE, atol=1e-4)


def test_volumes_of_4d_files(tmp_path: Path) -> None:
    array = ramp((5, 6, 7, 3))
    path = save(tmp_path / "four.nii.gz", array)
    assert read_header(path).channels == 3
    for volume, wanted in zip(read_images([Source(str(path), (), n) for n in (2, 0)]), (2, 0), strict=True):
        assert np.array_equal(volume.array, array[..., wanted])
    with pytest.raises(ImageError, match="4D with 3 volumes") as error:
        read_image(path)
    assert error.value.kind == "not_3d" and "--volumes" in error.value.hint
    with pytest.raises(ImageError, match="number 3"):
        read_image(Source(str(path), (), 3))
    joined = sitk.JoinSeries([sitk.GetImageFromArray(array[..., n].T) for n in range(3)])
    sitk.WriteImage(joined, tmp_path / "four.nrrd")
    vector = sitk.GetImageFromArray(np.moveaxis(array, (0, 1, 2), (2, 1, 0)), isVector=True)
    sitk.WriteImage(vector, tmp_path / "four.mha")
    for name in ("four.nrrd", "four.mha"):
        assert read_header(tmp_path / name).channels == 3
        assert np.array_equal(read_image(Source(str(tmp_path / name), (), 1)).array, array[..., 1])


def test_a_header_needs_the_first_bytes_only(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 99, (40, 40, 40)).astype(np.int16)
    )
    path.write_bytes(path.read_bytes()[:2000])
    assert read_header(path).shape == (40, 40, 40)


def whole(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 9999, (64, 64, 64)).astype(np.int16)
    return save(path.with_name("whole.nii.gz"), noise).read_bytes()


BROKEN: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "gone": ("a.nii.gz", lambda p: None, "missing_file", "not there"),
    "empty": ("a.nii.gz", lambda p: p.write_bytes(b""), "empty_file", "empty"),
    "empty nrrd": ("a.nrrd", lambda p: p.write_bytes(b""), "empty_file", "empty"),
    "text": (
        "a.nii.gz",
        lambda p: p.write_text("Patient moved, scan again. " * 30),
        "unreadable",
        "text file",
    ),
    "short text": ("a.nii", lambda p: p.write_text("hello"), "unreadable", "text file"),
    "html": ("a.nii", lambda p: p.write_text("<!DOCTYPE html><p>404</p>" * 30), "unreadable", "web page"),
    "lfs": (
        "a.nii.gz",
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "unreadable",
        "LFS",
    ),
    "nrrd of a line without sense": (
        "a.nrrd",
        lambda p: p.write_bytes(b"NRRD0004\ntype: short\n" + b"x" * 2000 + b"\n\n"),
        "unreadable",
        "header is damaged",
    ),
    "text nrrd": ("a.nrrd", lambda p: p.write_text("hello"), "unreadable", "not an image"),
    "noise": ("a.nii", lambda p: p.write_bytes(bytes(range(256)) * 4), "unreadable", "not a NIfTI"),
    "half gzip": ("a.nii.gz", lambda p: p.write_bytes(whole(p)[:-40]), "truncated", "ends early"),
    "no checksum": ("a.nii.gz", lambda p: p.write_bytes(whole(p)[:-4]), "truncated", "ends early"),
    "bad checksum": ("a.nii.gz", lambda p: p.write_bytes(whole(p)[:-8] + bytes(8)), "truncated", "damaged"),
    "half nifti": (
        "a.nii",
        lambda p: p.write_bytes(gzip.decompress(whole(p))[:600]),
        "truncated",
        "ends early",
    ),
    "huge header": (
        "a.nii",
        lambda p: p.write_bytes(
            gzip.decompress(whole(p))[:42] + b"\xff\x7f" * 3 + gzip.decompress(whole(p))[48:]
        ),
        "truncated",
        "far too small",
    ),
    "2D": ("a.nii.gz", lambda p: save(p, ramp((20, 30))), "not_3d", "20 x 30"),
    "one slice": ("a.nii.gz", lambda p: save(p, ramp((20, 30, 1))), "not_3d", "20 x 30 x 1"),
    "2D nrrd": (
        "a.nrrd",
        lambda p: sitk.WriteImage(sitk.GetImageFromArray(ramp((9, 9))), p),
        "not_3d",
        "9 x 9",
    ),
    "5D": ("a.nii.gz", lambda p: save(p, ramp((4, 5, 6, 2, 3))), "not_3d", "5 dimensions"),
    "colour": (
        "a.nii.gz",
        lambda p: save(p, np.zeros((5, 5, 5), np.dtype([(c, "u1") for c in "RGB"]))),
        "colour",
        "colour",
    ),
    "colour nrrd": (
        "a.nrrd",
        lambda p: sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 5, 5, 3), "u1"), isVector=True), p),
        "colour",
        "colour",
    ),
    "complex": ("a.nii.gz", lambda p: save(p, np.zeros((5, 5, 5), np.complex64)), "unreadable", "complex"),
    "folder": ("a.nii.gz", lambda p: p.mkdir(), "unreadable", "folder"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_one_clear_line(tmp_path: Path, name: str) -> None:
    file, make, kind, words = BROKEN[name]
    path = tmp_path / file
    make(path)
    with pytest.raises(ImageError, match=words) as error:
        read_image(path)
    assert isinstance(error.value, DataError) and error.value.kind == kind
    assert str(path) in str(error.value) and error.value.hint and "\n" not in str(error.value)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_other_formats_cut_short(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    write_image(path, ramp((20, 20, 20)), AFFINE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ImageError, match="end early") as error:
        read_image(path)
    assert error.value.kind == "truncated"


def test_standard_gzip_serves_where_isal_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii.gz", ramp())
    monkeypatch.setattr(images_nifti, "_open_gzip", gzip.open)
    assert np.array_equal(read_image(path).array, ramp())
    for content, words in ((whole(path)[:-30], "ends early"), (whole(path)[:-8] + bytes(8), "damaged")):
        path.write_bytes(content)
        with pytest.raises(ImageError, match=words):
            read_image(path)


def test_channels_of_a_case_share_a_grid(tmp_path: Path) -> None:
    one = save(tmp_path / "one.nii.gz", ramp())
    two = save(tmp_path / "two.nii.gz", ramp() + 1)
    array, affine = read_case(Case("c", (Source(str(one)), Source(str(two)))))
    assert array.shape == (2, 8, 7, 6) and (array[1] == array[0] + 1).all() and np.allclose(affine, AFFINE)
    turned = tmp_path / "turned.nii.gz"  # the same places in another order
    nib.save(nib.load(two).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]])), turned)
    again, _ = read_case(Case("c", (Source(str(one)), Source(str(turned)))))
    assert np.array_equal(again, array)
    moved = AFFINE.copy()
    moved[0, 3] += 5
    away = save(tmp_path / "away.nii.gz", ramp(), moved)
    with pytest.raises(DataError, match=r"5\.00 mm apart"):
        read_case(Case("c", (Source(str(one)), Source(str(away)))))
    with pytest.raises(DataError, match="no file for t2"):
        read_case(Case("c", (Source(str(one)),), missing=("t2",)))
    flat = save(tmp_path / "flat.nii", ramp())
    flat.write_bytes(flat.read_bytes()[:312] + bytes(16) + flat.read_bytes()[328:])  # the sform's last row
    with pytest.raises(DataError, match="cannot be inverted"):
        read_case(Case("c", (Source(str(flat)),)))


def test_content_hash_follows_the_bytes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", ramp())
    first = content_hash(path)
    assert first == content_hash(Source(str(path))) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert content_hash(Source(str(path), (), 0)) != content_hash(Source(str(path), (), 1)) != first
    save(path, ramp() + 1)
    os.utime(path, ns=(1, 1))
    assert content_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest() != first
    sitk.WriteImage(sitk.GetImageFromArray(ramp()), tmp_path / "b.mhd")
    before = content_hash(tmp_path / "b.mhd")
    (tmp_path / "b.raw").write_bytes(bytes(ramp().nbytes))
    os.utime(tmp_path / "b.raw", ns=(1, 1))
    assert content_hash(tmp_path / "b.mhd") != before


BEFORE = "NDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\n"
META = f"{BEFORE}ElementDataFile"
NRRD = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 3 2\nencoding: raw"


@pytest.mark.parametrize(
    ("name", "header", "voxels"),
    [
        ("a.mhd", f"{META} = Größe.raw\n", ["Größe.raw"]),
        ("a.mhd", f"{META} = LIST\n0.raw\n1.raw\n", ["0.raw", "1.raw"]),
        ("a.mhd", f"{META} = s%02d.raw 1 3 2\n", ["s01.raw", "s03.raw"]),
        ("a.mha", f"{META} = a.raw\n", ["a.raw"]),
        ("a.nrrd", f"{NRRD}\ndata file: ./a.raw\n", ["a.raw"]),
        ("a.nrrd", f"{NRRD}\ndata file: LIST\n0.raw\n1.raw\n", ["0.raw", "1.raw"]),
        ("a.mhd", f"{META} = LOCAL\n", []),
        # ITK reads all of these.
        ("a.mhd", f"{BEFORE}\n ElementDataFile : a.raw\n", ["a.raw"]),
        ("a.mhd", f"Comment = {'x' * 490}\n{META} = a.raw\n", ["a.raw"]),
        ("a.nrrd", f"{NRRD}\n#{'x' * 499}\ndata file: a.raw\n", ["a.raw"]),
    ],
)
def test_content_hash_follows_voxels_in_other_files(
    tmp_path: Path, name: str, header: str, voxels: list[str]
) -> None:
    path, parts = tmp_path / name, np.split(np.arange(24, dtype=np.uint8), max(1, len(voxels)))
    path.write_bytes(header.encode() + (b"" if voxels else parts[0].tobytes()))
    for voxel, part in zip(voxels, parts, strict=False):
        (tmp_path / voxel).write_bytes(part.tobytes())
    assert np.array_equal(read_image(path).array.ravel(order="F"), np.arange(24))
    before = content_hash(path)
    last = tmp_path / voxels[-1] if voxels else path
    last.write_bytes(last.read_bytes()[:-1] + b"\xff")
    os.utime(last, ns=(1, 1))
    assert content_hash(path) != before


def test_unknown_formats_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png"):
        write_image(tmp_path / "a.png", ramp(), AFFINE)


def test_sheared_axes_survive_in_nifti(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[1, 2] = 0.8
    write_image(tmp_path / "a.nii.gz", ramp(), sheared)
    assert np.allclose(read_image(tmp_path / "a.nii.gz").affine, sheared)
    with pytest.raises(DataError, match="sheared"):
        write_image(tmp_path / "a.nrrd", ramp(), sheared)


@pytest.mark.skipif(os.name == "nt", reason="names are always text there")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.nii"))
    try:
        save(tmp_path / "a.nii", ramp()).rename(path)
    except OSError:
        pytest.skip("this file system refuses such names")
    assert np.array_equal(read_image(path).array, ramp())
    path.rename(path.with_suffix(".nrrd"))
    with pytest.raises(ImageError, match="not valid text"):
        read_image(path.with_suffix(".nrrd"))
