"""Preprocessing (set H) against the published transforms: every stored step of v1 and v2, values and affines.

The published affines after resizing follow the same convention as ours: first voxel centre on the first, last
on the last. Two corners, which the stored volumes do not reach, differ on purpose: an axis of a single voxel
gets a singular affine there and keeps its extent here; without any foreground nothing is left there and all
of it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from VoCoCore.data.apply import apply_plan
from VoCoCore.data.plan import Plan, plan_case
from VoCoCore.data.resample import sample, spaced_size
from VoCoCore.geometry import spacing_of
from VoCoCore.presets import resolve_pretrain
from VoCoCore.settings import PrepareSettings

VALUES, AFFINES = 2e-6, 1e-5  # intensities in [0, 1]; mm
PARTS = {
    "abdomen": "abd",
    "abdomen_without_label": "abd",
    "headneck": "abd",
    "chest": "chest",
}  # codespell:ignore
Arrays = dict[str, np.ndarray]


def sets(shared_data: Path, recipe: str) -> Iterator[tuple[str, Arrays]]:
    """(prefix with seed, arrays below it) of all seeds of a recipe in all files."""
    found = False
    for path in sorted((shared_data / "reference").glob(f"*_{recipe}.npz")):
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in file.files if name.startswith(f"H.{recipe}.")]
            for prefix in sorted({".".join(name.split(".")[:3]) for name in names}):
                found = True
                yield (
                    prefix,
                    {n.removeprefix(prefix + "."): file[n] for n in names if n.startswith(prefix + ".")},
                )
    if not found:
        pytest.skip(f"no set H of {recipe} in {shared_data / 'reference'}")


def settings_of(recipe: str) -> PrepareSettings:
    """The recipe's own preparing settings."""
    return resolve_pretrain({"recipe": recipe}).prepare


def compare(arrays: Arrays, step: str, values: np.ndarray, affine: np.ndarray, scale: float = 1.0) -> None:
    """All that is stored about one step: shape, affine, statistics, values whole, strided or in a box."""
    stored = {n.removeprefix(step + "."): v for n, v in arrays.items() if n.startswith(step + ".")}
    assert stored, f"nothing is stored about {step}"
    assert values.shape == tuple(stored["shape"])
    np.testing.assert_allclose(affine, stored["affine"], rtol=0, atol=AFFINES)
    exact = values.astype(np.float64)
    stats: Any = [exact.sum(), (exact**2).sum(), exact.min(), exact.max()]
    np.testing.assert_allclose(stats, stored["stats"], rtol=1e-6, atol=1e-4 * scale)
    if "out" in stored:
        np.testing.assert_allclose(values, stored["out"], rtol=0, atol=VALUES * scale)
    if "strided" in stored:
        x, y, z = stored["stride"]
        np.testing.assert_allclose(values[0, ::x, ::y, ::z], stored["strided"], rtol=0, atol=VALUES * scale)
    if "nonzero_box" in stored:
        filled = np.argwhere(values[0] != 0)
        low, high = stored["nonzero_box"]
        assert (filled.min(0) >= low).all()
        assert (filled.max(0) < high).all()


def spaced_whole(image: np.ndarray, plan: Plan) -> np.ndarray:
    """The whole image (1, X, Y, Z) after the spacing step, in HU, which our own pipeline never makes."""
    oriented = plan.oriented(image[0])
    old = spacing_of(plan.oriented_affine)
    sizes = [spaced_size(n, a, a * s) for n, a, s in zip(oriented.shape, old, plan.step, strict=True)]
    x, y, z = (np.arange(n) * step for n, step in zip(sizes, plan.step, strict=True))
    out = np.empty(sizes, np.float32)
    sample(oriented, (x, y, z), out)
    return out[None]


def spaced_affine(plan: Plan) -> np.ndarray:
    affine = plan.oriented_affine.copy()
    affine[:3, :3] *= plan.step
    return affine


def test_v1(shared_data: Path) -> None:
    prepare = settings_of("v1")
    assert resolve_pretrain({"recipe": "v1"}).crops.volume_size == (384, 384, 96)
    for _, arrays in sets(shared_data, "v1"):
        image, affine = arrays["hu"][None], arrays["affine"]
        boxed = plan_case(image, affine, prepare.with_values({"fit": "pad"}), (1, 1, 1))
        oriented = boxed.oriented(image[0])[None]
        compare(arrays, "small12x16x5.step2_Orientationd", oriented, boxed.oriented_affine)
        windowed = boxed.intensities[0].apply(oriented.astype(np.float32))
        compare(arrays, "small12x16x5.step3_ScaleIntensityRanged", windowed, boxed.oriented_affine)
        cropped = apply_plan(image, boxed, np.float32)
        compare(arrays, "small12x16x5.step4_CropForegroundd", cropped, boxed.affine)
        for size, step in (((12, 16, 5), "small12x16x5"), ((384, 384, 96), "full384")):
            plan = plan_case(image, affine, prepare, size)
            compare(arrays, f"{step}.step5_Resized", apply_plan(image, plan, np.float32), plan.affine)


@pytest.mark.parametrize("part", PARTS)
def test_v2(shared_data: Path, part: str) -> None:
    prepare = settings_of("v2")
    for _, arrays in sets(shared_data, "v2"):
        image, affine = arrays[f"{PARTS[part]}.hu"][None], arrays[f"{PARTS[part]}.affine"]
        plan = plan_case(image, affine, prepare, (192, 192, 64), part)
        prepared = apply_plan(image, plan, np.float32)
        if part in ("abdomen_without_label", "headneck"):
            compare(arrays, f"{part}.step8_Resized", prepared, plan.affine)
            continue
        oriented = plan.oriented(image[0])[None]
        compare(arrays, f"{part}.step2_Orientationd", oriented, plan.oriented_affine)
        spaced = spaced_whole(image, plan)
        compare(arrays, f"{part}.step3_Spacingd", spaced, spaced_affine(plan), scale=1000)
        windowed = plan.intensities[0].apply(spaced.copy())
        compare(arrays, f"{part}.step4_ScaleIntensityRanged", windowed, spaced_affine(plan))
        compare_v2_box(arrays, part, image, affine, prepare)
        compare(arrays, f"{part}.step8_SpatialPadd", prepared, plan.affine)
        # Volumes of this set are smaller than the region, so cutting one at random changes nothing.
        compare(arrays, f"{part}.step9_RandSpatialCropd", prepared, plan.affine)


def compare_v2_box(
    arrays: Arrays, part: str, image: np.ndarray, affine: np.ndarray, prepare: PrepareSettings
) -> None:
    """Foreground box and first padding: plans that end there."""
    boxed = plan_case(image, affine, prepare, (1, 1, 1), part)
    compare(arrays, f"{part}.step5_CropForegroundd", apply_plan(image, boxed, np.float32), boxed.affine)
    first = plan_case(image, affine, prepare, (64, 64, 64), part)
    compare(arrays, f"{part}.step6_SpatialPadd", apply_plan(image, first, np.float32), first.affine)
