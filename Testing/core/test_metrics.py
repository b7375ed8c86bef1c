"""Scores of segmentations against a brute-force computation, MONAI's metrics and figures worked out by hand."""

from __future__ import annotations

import itertools
import subprocess
import sys
from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.errors import DataError, SettingsError
from VoCoCore.evaluation.metrics import LabelMetrics, case_metrics, layers

ONE = {"organ": (1,)}


def surface(mask: np.ndarray, ignored: np.ndarray | None = None) -> list[tuple[int, ...]]:
    """Voxels of ``mask`` beside a voxel outside it that is not ``ignored``, asked one by one."""
    found = []
    for voxel in itertools.product(*map(range, mask.shape)):
        for axis, step in itertools.product(range(3), (-1, 1)):
            beside = list(voxel)
            beside[axis] += step
            within = 0 <= beside[axis] < mask.shape[axis]
            inside = within and (mask[tuple(beside)] or (ignored is not None and ignored[tuple(beside)]))
            if mask[voxel] and not inside:
                found.append(voxel)
                break
    return found


def quantile(values: list[float], share: float) -> float:
    """Linear interpolation between neighbours in order."""
    ordered, place = sorted(values), share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def brute(
    a: np.ndarray, b: np.ndarray, spacing: np.ndarray, tolerance: float, ignored: np.ndarray | None = None
) -> dict[str, float]:
    """All figures of two masks that both mark something, every pair of surface voxels measured."""
    there, back = ([np.multiply(voxel, spacing) for voxel in surface(mask, ignored)] for mask in (a, b))
    apart = [[float(np.sqrt(((p - q) ** 2).sum())) for q in back] for p in there]
    ways = [min(row) for row in apart], [min(row[i] for row in apart) for i in range(len(back))]
    both = [*ways[0], *ways[1]]
    return {
        "dice": 2 * (a & b).sum() / (a.sum() + b.sum()),
        "iou": (a & b).sum() / (a | b).sum(),
        "surface_dice": sum(d <= tolerance + 1e-4 for d in both) / len(both),
        "hd95": max(quantile(way, 0.95) for way in ways),
        "asd": sum(both) / len(both),
        "reference_ml": a.sum() * np.prod(spacing) / 1000,
        "volume_error_percent": 100 * (int(b.sum()) - int(a.sum())) / a.sum(),
    }


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 1.25, 3.0])] * 3),
    tolerance=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    empty=st.floats(0.2, 0.9),
)
def test_every_figure_is_that_of_all_pairs_of_surface_voxels(seed, shape, spacing, tolerance, empty):
    rng = np.random.default_rng(seed)
    maps = [rng.choice(4, shape, p=[empty, *[(1 - empty) / 3] * 3]).astype(np.uint8) for _ in range(2)]
    labels = {"a": (1,), "b": (2,), "b and c": (2, 3)}
    found = case_metrics(*maps, spacing, labels, tolerance)
    for name, values in labels.items():
        a, b = (np.isin(array, values) for array in maps)
        if a.any() and b.any():
            for figure, value in brute(a, b, np.array(spacing), tolerance).items():
                assert getattr(found[name], figure) == pytest.approx(value, abs=1e-9), (name, figure)
            assert found[name].state == ""
        else:
            assert found[name].state == ("missed" if a.any() else "invented" if b.any() else "absent")


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    order=st.permutations(range(3)),
    share=st.floats(0.0, 0.9),
)
def test_what_is_cut_off_by_ignored_voxels_has_no_surface_there(seed, shape, order, share):
    rng = np.random.default_rng(seed)
    away = rng.random(shape) < share
    maps = [np.where(away, 0, rng.choice(3, shape, p=[0.1, 0.8, 0.1])).astype(np.uint8) for _ in range(2)]
    given = [array.transpose(order).copy().transpose(np.argsort(order)) for array in (*maps, away)]
    spacing = np.array([0.7, 1.25, 3.0])
    found = case_metrics(given[0], given[1], spacing, {"a": (1,), "all": (1, 2)}, 1.0, given[2])
    for name, values in {"a": (1,), "all": (1, 2)}.items():
        a, b = (np.isin(array, values) for array in maps)
        if not (a.any() and b.any()):
            continue
        lengths = [len(surface(mask, away)) for mask in (a, b)]
        if all(lengths):
            for figure, value in brute(a, b, spacing, 1.0, away).items():
                assert getattr(found[name], figure) == pytest.approx(value, abs=1e-9), (name, figure)
        else:
            assert isnan(found[name].hd95) and isnan(found[name].asd)
            assert found[name].surface_dice == 0 if any(lengths) else isnan(found[name].surface_dice)
            assert found[name].dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def blobs(seed: int, shape: tuple[int, int, int] = (40, 36, 24)) -> tuple[np.ndarray, np.ndarray]:
    """Three smooth labels and a version of them that is moved and roughened."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.standard_normal((4, *shape)), (0, 4, 4, 3))
    noise = gaussian_filter(rng.standard_normal((4, *shape)), (0, 1.5, 1.5, 1.5)) * 0.3 * fields.std()
    fields[0] += 0.5 * fields.std()
    return fields.argmax(0).astype(np.uint8), np.roll(fields + noise, 1, axis=1).argmax(0).astype(np.uint8)


@pytest.mark.filterwarnings("ignore:.*get_mask_edges:FutureWarning")
@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 0, 1)])
def test_of_a_sheared_grid_distances_and_volumes_are_those_in_the_patient(turn):
    """A gantry tilted by 20 degrees: slices of 5 mm distance are shifted by 1.82 mm each."""
    steps = np.array([[0.5, 0, 0], [0, 0.5, 5 * np.tan(np.radians(20))], [0, 0, 5.0]])
    a, b = np.zeros((12, 30, 12), bool), np.zeros((12, 30, 12), bool)
    a[2:10, 4:14, 2:6], b[2:10, 9:19, 4:8] = True, True
    there, back = (np.array(surface(mask)) @ steps.T for mask in (a, b))
    apart = np.linalg.norm(there[:, None] - back[None], axis=-1)
    ways = apart.min(axis=1), apart.min(axis=0)
    maps = (np.ascontiguousarray(mask.transpose(turn)) for mask in (a, b))
    found = case_metrics(*maps, steps[:, turn], ONE, tolerance=3.0)[next(iter(ONE))]
    assert found.hd95 == pytest.approx(max(np.percentile(way, 95) for way in ways))
    assert found.asd == pytest.approx(np.concatenate(ways).mean())
    assert found.surface_dice == pytest.approx((np.concatenate(ways) <= 3.0).mean())
    assert found.reference_ml == pytest.approx(a.sum() * 0.5 * 0.5 * 5 / 1000)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 3.0), (2.5, 0.6, 1.1)])
def test_monai_says_the_same(spacing):
    import torch
    from monai import metrics

    reference, prediction = blobs(3)
    found = case_metrics(reference, prediction, spacing, {str(n): (n,) for n in (1, 2, 3)}, tolerance=2.0)
    a, b = (
        torch.nn.functional.one_hot(torch.from_numpy(array.astype(np.int64)), 4).movedim(-1, 0)[None]
        for array in (prediction, reference)
    )
    theirs = {
        "dice": metrics.compute_dice(a, b, include_background=False),
        "iou": metrics.compute_iou(a, b, include_background=False),
        "hd95": metrics.compute_hausdorff_distance(a, b, percentile=95, spacing=spacing),
        "asd": metrics.compute_average_surface_distance(a, b, symmetric=True, spacing=spacing),
        "surface_dice": metrics.compute_surface_dice(a, b, [2.0] * 3, spacing=spacing),
    }
    for figure, values in theirs.items():
        ours = [getattr(found[str(n)], figure) for n in (1, 2, 3)]
        np.testing.assert_allclose(ours, values[0].numpy(), rtol=2e-6, err_msg=figure)
    assert 0.3 < found["1"].dice < 0.95, "labels that agree or miss altogether would test nothing"


def cube(at: int, size: int = 4) -> np.ndarray:
    array = np.zeros((16, 10, 10), np.uint8)
    array[at : at + size, 3 : 3 + size, 3 : 3 + size] = 1
    return array


def test_figures_worked_out_by_hand():
    found = case_metrics(cube(2), cube(4), (0.5, 2, 1), ONE, tolerance=0.5)["organ"]
    assert found.dice == 0.5 and found.iou == pytest.approx(1 / 3)
    assert found.reference_ml == found.predicted_ml == pytest.approx(0.064)
    assert found.volume_error_ml == 0 and found.volume_error_percent == 0
    # Moved by two voxels of 0.5 mm along x. Of 56 surface voxels, the end face that was left is 1 mm away, the rim of
    # the next slice 0.5 mm, two rims coincide, and the middle of the other end face is 0.5 mm from the face inside it.
    one = [1.0] * 16 + [0.5] * 12 + [0.0] * 24 + [0.5] * 4
    assert found.hd95 == 1.0
    assert found.asd == pytest.approx(sum(one) / 56)
    assert found.surface_dice == pytest.approx(40 / 56)


def test_larger_and_smaller_are_told_apart():
    found = case_metrics(cube(2, 4), cube(2, 2), (10, 10, 10), ONE)["organ"]
    assert (found.reference_ml, found.predicted_ml, found.volume_error_ml) == (64, 8, -56)
    assert found.volume_error_percent == -87.5
    back = case_metrics(cube(2, 2), cube(2, 4), (10, 10, 10), ONE)["organ"]
    assert back.volume_error_ml == 56 and back.volume_error_percent == 700
    assert (back.dice, back.hd95, back.asd) == (found.dice, found.hd95, found.asd)


def test_the_same_twice_is_perfect():
    array = blobs(0)[0]
    for found in case_metrics(array, array, (1, 2, 3), {"a": (1,), "b": (2, 3)}, tolerance=0).values():
        assert (found.dice, found.iou, found.surface_dice, found.hd95, found.asd) == (1, 1, 1, 0, 0)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (0, 0, LabelMetrics(state="absent")),
        (1, 0, LabelMetrics(0, 0, 0, nan, nan, 0.064, 0, -0.064, -100, "missed")),
        (0, 1, LabelMetrics(0, 0, 0, nan, nan, 0, 0.064, 0.064, nan, "invented")),
    ],
)
def test_empty_masks_follow_the_stated_rules(ours, theirs, expected):
    found = case_metrics(cube(2) * ours, cube(2) * theirs, (1, 1, 1), ONE)["organ"]
    for name, value in vars(expected).items():
        same = getattr(found, name)
        assert same == value or (isnan(same) and isnan(value)), name


def test_a_label_that_fills_the_image_has_its_border_as_surface():
    full = np.ones((5, 5, 5), np.uint8)
    hollow = full.copy()
    hollow[2, 2, 2] = 0
    found = case_metrics(full, hollow, (1, 1, 1), ONE, tolerance=0)["organ"]
    # 98 voxels lie on the border; the hollow one has six more around its hole, two voxels from the border but for 1.
    assert found.surface_dice == pytest.approx((98 + 98) / (98 + 98 + 6))
    assert found.asd == pytest.approx(6 / (98 + 98 + 6))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("turn", ["as is", "fortran", "transposed", "flipped"])
def test_how_an_array_lies_in_memory_changes_nothing(kind, turn):
    reference, prediction = blobs(3, (30, 26, 20))
    labels, spacing = {"a": (1,), "b": (2,), "c": (3,)}, (1.0, 2.0, 3.0)
    expected = case_metrics(reference, prediction, spacing, labels)
    a, b = reference.astype(kind), prediction.astype(np.int32)
    if turn == "fortran":
        a, b = np.asfortranarray(a), np.ascontiguousarray(b)
    elif turn == "transposed":
        a, b, spacing = a.transpose(2, 0, 1), b.transpose(2, 0, 1), (3.0, 1.0, 2.0)
    elif turn == "flipped":
        a, b = a[::-1, :, ::-1], b[::-1, :, ::-1]
    for name, found in case_metrics(a, b, spacing, labels).items():
        ours, theirs = dict(vars(found)), vars(expected[name])
        assert ours.pop("state") == theirs["state"] == ""
        # Distances are summed in another order.
        assert ours == pytest.approx({key: theirs[key] for key in ours}, rel=1e-12)


def test_large_values_and_masks_that_are_true_or_false():
    array = cube(2)
    expected = case_metrics(array, cube(3), (1, 1, 1), ONE)["organ"]
    assert case_metrics(array == 1, cube(3) == 1, (1, 1, 1), ONE)["organ"] == expected
    found = case_metrics(array.astype(np.int32) * 500, cube(3) * np.int32(500), (1, 1, 1), {"heart": (500,)})
    assert found["heart"] == expected
    many = {f"n{n}": (n,) for n in range(1, 400)}
    assert case_metrics(array * np.uint16(399), cube(3) * np.uint16(399), (1, 1, 1), many)["n399"] == expected


def test_other_values_count_as_background():
    reference, prediction = cube(2), cube(3)
    expected = case_metrics(reference, prediction, (1, 1, 1), ONE)
    reference[0], prediction[-1] = 7, 9
    assert case_metrics(reference, prediction, (1, 1, 1), ONE) == expected


def test_tolerance_forgives_the_rounding_of_headers():
    spacing = [float(np.float32(0.7))] * 3  # 0.699999988
    wider = [0.70000001] * 3
    for step in (spacing, wider):
        assert case_metrics(cube(2), cube(3), step, ONE, tolerance=0.7)["organ"].surface_dice == 1
    assert case_metrics(cube(2), cube(3), (0.701,) * 3, ONE, tolerance=0.7)["organ"].surface_dice < 1


def test_labels_that_overlap_go_into_layers_of_their_own():
    brain = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,), "edema": (2,)}
    assert layers(brain) == [["WT"], ["TC", "edema"], ["ET"]]
    assert layers({"a": (1,), "b": (2,), "c": (3,)}) == [["a", "b", "c"]]
    reference, prediction = blobs(7, (14, 12, 10))
    found = case_metrics(reference, prediction, (1, 1, 2), {"all": (1, 2, 3), "two": (1, 2), "one": (1,)})
    assert list(found) == ["all", "two", "one"]
    alone = case_metrics(np.isin(reference, (1, 2)), np.isin(prediction, (1, 2)), (1, 1, 2), ONE)["organ"]
    assert found["two"] == alone


WRONG = [
    ({"reference": np.zeros((2, 2, 2))}, DataError, "cannot be compared"),
    ({"prediction": np.zeros((16, 10))}, DataError, "cannot be compared"),
    ({"prediction": np.full((16, 10, 10), 0.5)}, DataError, "not whole numbers"),
    ({"prediction": np.full((16, 10, 10), nan)}, DataError, "from nan to nan"),
    ({"prediction": np.full((16, 10, 10), -1)}, DataError, "from -1 to -1"),
    ({"prediction": np.full((16, 10, 10), 70_000)}, DataError, "70000"),
    ({"spacing": (1, 1)}, SettingsError, "spacing"),
    ({"spacing": (1, 0, 1)}, SettingsError, "spacing"),
    ({"spacing": np.ones((3, 3))}, SettingsError, "spacing"),
    ({"tolerance": -1.0}, SettingsError, "tolerance"),
    ({"tolerance": nan}, SettingsError, "tolerance"),
    ({"labels": {}}, SettingsError, "no label"),
    ({"labels": {"air": (0,)}}, SettingsError, "'air'"),
    ({"labels": {"none": ()}}, SettingsError, "'none'"),
]


@pytest.mark.parametrize(("change", "kind", "says"), WRONG)
def test_what_cannot_be_scored_is_refused(change, kind, says):
    usual = {"reference": cube(2), "prediction": cube(2), "spacing": (1, 1, 1), "labels": ONE}
    with pytest.raises(kind, match=says) as caught:
        case_metrics(**{**usual, **change})
    assert caught.value.hint


def test_scoring_needs_neither_torch_nor_matplotlib():
    code = (
        "import sys, numpy as np; from VoCoCore.evaluation.metrics import case_metrics; a = np.ones((3, 3, 3));"
        "case_metrics(a, a, (1, 1, 1), {'a': (1,)}); sys.exit(len({'torch', 'matplotlib', 'monai'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
