"""The synthetic cohort: anatomy in place in the patient's space, look-alikes alike, files reproducible."""

import json

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from VoCoCore.data.phantom import ORIENTATIONS, make_case, make_cohort
from VoCoCore.data.phantom_shapes import LABELS, ORGANS
from VoCoCore.errors import SettingsError

SMALL = (48, 48, 32)


def centres(case):
    """RAS centre of each label, straight from the affine."""
    found = {}
    for name, value in LABELS.items():
        where = np.argwhere(case.label == value)
        found[name] = nibabel.affines.apply_affine(case.affine, where.mean(0))
    return found


def inner(case, name, layers=1):
    """HU of the voxels of a label ``layers`` away from its surface, where no neighbour blurs them."""
    return case.image[binary_erosion(case.label == LABELS[name], iterations=layers)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), number=st.integers(0, 10_000))
def test_organs_keep_their_relation_in_the_patients_space(seed, number):
    case = make_case(seed, number, SMALL)
    assert set(np.unique(case.label)) == set(LABELS.values())
    at = centres(case)
    right_of = [
        ("liver", "spleen"),
        ("kidney_right", "kidney_left"),
        ("gallbladder", "stomach"),
        ("vena_cava", "aorta"),
        ("lung_right", "lung_left"),
        ("nodule_lung_right", "nodule_lung_left"),
        ("nodule_flank_right", "nodule_flank_left"),
    ]
    for right, left in right_of:
        assert at[right][0] > at[left][0] + 5, (right, left)
    assert at["heart"][2] > at["liver"][2] > at["kidney_right"][2]
    assert at["heart"][1] > at["spine"][1] + 20
    assert at["nodule_lung_left"][2] > at["nodule_flank_left"][2] + 100


def test_a_case_depends_on_seed_and_number_alone():
    first, again = make_case(3, 7, SMALL), make_case(3, 7, SMALL)
    for one, two in zip(first.__dict__.values(), again.__dict__.values(), strict=True):
        np.testing.assert_array_equal(one, two)
    for other in (make_case(3, 8, SMALL), make_case(4, 7, SMALL)):
        assert other.image.shape != first.image.shape or np.any(other.image != first.image)


def test_image_and_label_are_what_the_docstring_says():
    case = make_case(0, 0)
    assert (case.image.dtype, case.label.dtype) == (np.int16, np.uint8)
    assert case.image.shape == case.label.shape
    for name, low, high in [
        ("lung_right", -870, -750),
        ("liver", 95, 120),
        ("spleen", 108, 135),
        ("aorta", 145, 178),
    ]:
        assert low < np.median(inner(case, name)) < high, name
    assert np.median(case.image[0]) < -950 or np.median(case.image[:, 0]) < -950


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("kidney_right", "kidney_left"),
        ("aorta", "vena_cava"),
        ("nodule_lung_right", "nodule_lung_left"),
        ("nodule_flank_right", "nodule_flank_left"),
    ],
)
def test_look_alikes_share_hu_and_size(one, two):
    means, spreads, volumes = [], [], []
    for number in range(12):
        case = make_case(11, number)
        voxels = [case.image[case.label == LABELS[name]] for name in (one, two)]
        means.append(np.subtract(*[v.mean() for v in voxels]))
        spreads.append(np.log(np.divide(*[v.std() for v in voxels])))
        volumes.append(np.log(np.divide(*[len(v) for v in voxels])))
    for difference, tolerance in [(means, 6.0), (spreads, 0.15)]:
        assert abs(np.mean(difference)) < max(tolerance, 3 * np.std(difference) / 12**0.5)
    if "vena" not in two:  # the vena cava ends at the heart, the aorta above it
        assert abs(np.mean(volumes)) < 0.1


def test_nodules_of_lung_and_flank_are_one_tissue():
    inside = {name: [] for name in LABELS if name.startswith("nodule")}
    for number in range(12):
        case = make_case(5, number, (128, 128, 96))
        for name, found in inside.items():
            found.extend(inner(case, name, layers=2))
    means = {name: np.mean(found) for name, found in inside.items()}
    assert np.ptp(list(means.values())) < 12, means


def test_each_family_has_a_member_that_belongs_to_the_background():
    for kind in ("nodule", "fluid"):
        family = [organ for organ in ORGANS if organ.kind == kind]
        assert len({organ.radii for organ in family}) == 1
        assert {organ.label for organ in family} > {"background"}


def test_what_is_said_to_vary_varies():
    cases = [make_case(0, number, SMALL) for number in range(40)]
    assert {case.orientation for case in cases} == set(ORIENTATIONS)
    for case in cases:
        assert "".join(nibabel.aff2axcodes(case.affine)) == case.orientation
    spacing = np.array([nibabel.affines.voxel_sizes(case.affine) for case in cases])
    assert (spacing.max(1) / spacing.min(1) > 1.2).mean() > 0.5
    assert len({case.image.shape for case in cases}) > 20
    oblique = [np.abs(nibabel.affines.obliquity(case.affine)).max() for case in cases]
    assert 0.05 < np.max(oblique) < 0.2
    volumes = [np.prod(s) * (c.label == LABELS["liver"]).sum() for s, c in zip(spacing, cases, strict=True)]
    assert np.max(volumes) > 1.5 * np.min(volumes)


def test_cohort_on_disk_is_a_decathlon_folder(tmp_path):
    told = []
    root = make_cohort(
        tmp_path / "cohort", cases=3, seed=2, size=SMALL, progress=lambda *a: told.append(a[:2])
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    listing = json.loads((root / "dataset.json").read_text())
    assert listing["numTraining"] == 3 and listing["labels"]["1"] == "liver"
    for number, entry in enumerate(listing["training"]):
        case = make_case(2, number, SMALL)
        image, label = nibabel.load(root / entry["image"]), nibabel.load(root / entry["label"])
        np.testing.assert_array_equal(np.asarray(image.dataobj), case.image)
        np.testing.assert_array_equal(np.asarray(label.dataobj), case.label)
        np.testing.assert_allclose(image.affine, case.affine, atol=1e-3)
        np.testing.assert_allclose(label.affine, image.affine)
    assert sorted(p.name for p in root.iterdir()) == ["dataset.json", "imagesTr", "labelsTr"]


def test_cohort_is_the_same_bytes_twice_and_may_lack_labels(tmp_path):
    one = make_cohort(tmp_path / "one", cases=2, size=SMALL, labels=False)
    two = make_cohort(tmp_path / "two", cases=2, size=SMALL, labels=False)
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert [f.name for f in files] == ["dataset.json", "torso_0000.nii.gz", "torso_0001.nii.gz"]
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files)


@pytest.mark.parametrize("arguments", [(-1, 0, SMALL), (0, -1, SMALL), (0, 0, (48, 48, 8))])
def test_impossible_cases_are_refused(arguments):
    with pytest.raises(SettingsError):
        make_case(*arguments)


def test_an_empty_cohort_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="at least one case"):
        make_cohort(tmp_path, cases=0)
