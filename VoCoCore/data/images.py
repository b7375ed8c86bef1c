"""Read and write volumes with their geometry: array axes stay as stored, affines map to RAS millimetres.

NIfTI is read by `images_nifti`, NRRD and MetaImage by `images_itk`, DICOM series by `dicom`. All of them
raise `ImageError` (a DataError) that says in one line what is wrong with which file and what to do.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import nibabel as nib
import numpy as np

from VoCoCore.data.cases import Case, Source
from VoCoCore.data.dicom import read_series, read_series_header
from VoCoCore.data.images_itk import LPS_TO_RAS, read_itk, read_itk_header, simple_itk, voxel_files
from VoCoCore.data.images_nifti import read_nifti, read_nifti_header
from VoCoCore.data.volume import Header, ImageError, Volume
from VoCoCore.errors import DataError
from VoCoCore.geometry import is_invertible, is_sheared, spacing_of
from VoCoCore.runs.files import open_plain, replacing

NIFTI, ITK = (".nii.gz", ".nii"), (".nrrd", ".mha", ".mhd")
EXTENSIONS = NIFTI + ITK
# Two images share a grid when no corner of theirs is farther apart than this share of a voxel.
SAME_GRID = 0.1
ONE_GRID = "resample them onto one grid; where each is a case of its own, give --channels 'image=*' to voco data index"


def read_image(source: Source | str | Path) -> Volume:
    """Read one 3D image (X, Y, Z): integers as stored, scaled values float32. Raises ImageError."""
    return read_images([_as_source(source)])[0]


def read_images(sources: Sequence[Source]) -> list[Volume]:
    """Read several; volumes of one 4D file that follow each other take a single pass. Raises ImageError."""
    found: list[Volume] = []
    for (path, files), group in groupby(sources, key=lambda s: (s.path, s.files)):
        with _opening(path):
            if files:
                found += [read_series(source) for source in group]
                continue
            read = read_itk if _is_itk(path) else read_nifti
            found += read(path, [source.volume for source in group])
    return found


def read_header(source: Source | str | Path) -> Header:
    """Read shape and geometry alone: a file's first bytes, a series' two end slices. Raises ImageError."""
    source = _as_source(source)
    with _opening(source.path):
        if source.files:
            return read_series_header(source)
        return read_itk_header(source.path) if _is_itk(source.path) else read_nifti_header(source.path)


def read_case(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Read all channels of a case: array (C, X, Y, Z) and affine (4, 4) of the first, along whose axes all are turned.

    Raises DataError where a channel is missing or unreadable, where channels lie on different grids, or
    where the affine cannot be inverted.
    """
    if case.missing:
        raise DataError(
            f"case {case.id} has no file for {', '.join(case.missing)}", "complete or remove the case"
        )
    volumes = read_images(case.images)
    first = volumes[0]
    if not is_invertible(first.affine):
        raise ImageError(f"{case.images[0].path} has an affine that cannot be inverted", "correct its header")
    volumes = [volume.along(first.affine) for volume in volumes]
    for source, volume in zip(case.images[1:], volumes[1:], strict=True):
        if difference := grid_difference(first.array.shape, first.affine, volume.array.shape, volume.affine):
            raise DataError(
                f"{source.path} and {case.images[0].path} are channels of case {case.id}, but {difference}",
                ONE_GRID,
            )
    if len(volumes) == 1:
        return first.array[None], first.affine
    return np.stack([volume.array for volume in volumes]), first.affine


def write_image(path: str | Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write ``array`` (X, Y, Z) with ``affine`` (index to RAS mm) as .nii, .nii.gz, .nrrd or .mha, in one
    step.

    Raises DataError for another extension, EnvironmentFault where the file cannot be written.
    """
    path = Path(path)
    extension = _extension(path.name)
    if extension not in (*NIFTI, ".nrrd", ".mha"):
        raise DataError(f"images cannot be written as {path.name}", "use .nii.gz, .nrrd or .mha")
    small = {
        "bool": np.uint8,
        "int64": np.int32,
        "uint64": np.uint32,
        "float64": np.float32,
        "float16": np.float32,
    }
    array = np.asarray(array, dtype=small.get(array.dtype.name, array.dtype))
    write = _write_nifti if extension in NIFTI else _write_itk
    with replacing(path) as beside:
        write(beside, array, np.asarray(affine, dtype=np.float64))


def content_hash(source: Source | str | Path) -> str:
    """SHA-256, in hex, of a source's file bytes: of all files that hold its voxels, such as the slices of a series.

    Remembered within the process for as long as size and modification time stay. Raises ImageError.
    """
    source = _as_source(source)
    with _opening(source.path):
        hashes = []
        for path in files_of(source):
            known = os.stat(path)
            hashes.append(_hash_file(path, known.st_size, known.st_mtime_ns))
    if source.volume is not None:
        hashes.append(f"volume {source.volume}")
    if source.segments:
        hashes.append(f"segments {sorted(source.segments)}")
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def files_of(source: Source) -> list[str]:
    """All files that a source's voxels and geometry lie in. Raises OSError."""
    return [*source.paths, *(voxel_files(source.path) if _is_itk(source.path) else [])]


def case_content(case: Case) -> str:
    """What a case's images hold: their `content_hash` joined by "+". Raises ImageError."""
    return "+".join(content_hash(source) for source in case.images)


def short_hash(content: str) -> str:
    """What weights and tables say of ``content``, a `case_content`: enough to recognise its files, nothing else."""
    return content[:12]


def grid_difference(
    shape: Sequence[int], affine: np.ndarray, other_shape: Sequence[int], other_affine: np.ndarray
) -> str:
    """Say with figures how two grids differ; empty where they are the same within a tenth of a voxel."""
    if tuple(shape) != tuple(other_shape):
        return f"their sizes differ: {_times(shape)} and {_times(other_shape)} voxels"
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    apart = float(np.linalg.norm(((affine - other_affine) @ corners)[:3], axis=0).max())
    # "not <=" also catches what is not a number.
    return "" if apart <= SAME_GRID * spacing_of(affine).min() else f"they lie up to {apart:.2f} mm apart"


def strip_extension(name: str) -> str:
    """A file's name without the extension of an image."""
    return name[: len(name) - len(_extension(name))]


def is_image_name(name: str) -> bool:
    """Whether a file is called like an image that can be read."""
    return bool(_extension(name))


def _extension(name: str) -> str:
    return next((e for e in EXTENSIONS if name.lower().endswith(e) and len(name) > len(e)), "")


def _is_itk(path: str) -> bool:
    return _extension(os.path.basename(path)) in ITK


def _as_source(source: Source | str | Path) -> Source:
    return source if isinstance(source, Source) else Source(os.fspath(source))


def _times(shape: Sequence[int]) -> str:
    return " x ".join(str(int(n)) for n in shape)


@contextmanager
def _opening(path: str) -> Iterator[None]:
    """Turn what the operating system says about opening ``path`` into an ImageError."""
    if not os.path.exists(path):
        raise ImageError(f"{path} is not there", "check the path, or make the index again", "missing_file")
    if not os.path.isfile(path) and not os.path.isdir(path):
        # Opening a pipe or a device would wait for ever.
        raise ImageError(f"{path} is a pipe or a device, not an image", "give the image file itself")
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError(f"{error.filename} is not there", "make the index again", "missing_file") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path} is a folder, not an image", "index the folder first") from error
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read: {error.strerror or error}", "check the disk and permissions"
        ) from error


@lru_cache(maxsize=1 << 17)
def _hash_file(path: str, size: int, modified: int) -> str:
    with open_plain(Path(path)) as file:  # a header may name a device as the file of its voxels
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    # A qform cannot hold shear: then the sform alone says where the image lies.
    image.set_qform(affine, code=0 if is_sheared(affine) else 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _write_itk(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    lps, spacing = LPS_TO_RAS @ affine, spacing_of(affine)
    if is_sheared(affine):
        raise DataError(f"{path.name} cannot hold sheared axes", "write it as .nii.gz")
    image = simple_itk().GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    simple_itk().WriteImage(image, str(path), True)
