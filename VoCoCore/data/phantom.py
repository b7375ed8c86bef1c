"""A synthetic torso CT cohort: for the demonstration, the tests and the evidence, without any patient's data.

Each case holds the organs of ``LABELS`` in a consistent relation, in Hounsfield units (air -1000, lung -850,
fat -100, muscle 58, liver 108, spleen 122, vessels 165, kidneys 190, bone up to 620), and *look-alikes*:
structures of the same tissue, size and shape, so that their place in the body alone tells them apart.

- kidney_right and kidney_left; aorta and vena_cava;
- gallbladder, and a cyst on the left side that belongs to the background;
- seven identical nodules: the upper one of each lung and the one of each flank carry labels of their own,
  those at the lung bases and the one behind the navel belong to the background.

What varies from case to case: the body's width, depth, height, fat and bend; place, size and tilt of each
organ; HU of each tissue; the patient's tilt; field of view, matrix, spacing (anisotropic), oblique planes,
origin and stored orientation; noise and sharpness. A case is a pure function of (seed, number).
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from VoCoCore.data.phantom_shapes import (
    HALF_BODY,
    INSIDE,
    LABELS,
    ORGANS,
    TISSUES,
    Canvas,
    Organ,
    paint_spine,
    paint_trunk,
    paint_vessels,
    rotation,
)
from VoCoCore.errors import SettingsError
from VoCoCore.runs.files import move

SIZE = (96, 96, 48)
ORIENTATIONS = ("LPS", "RAS", "LAS", "RPS", "LPI", "RSA", "PSR")
_BEND = 5.0  # largest shift of the bending, in reference millimetres
_HEADER = {
    "name": "Synthetic torso",
    "description": "Synthetic torso CT with look-alikes that only their place in the body tells apart",
    "licence": "CC0-1.0",
    "tensorImageSize": "3D",
    "modality": {"0": "CT"},
}


@dataclass(frozen=True)
class PhantomCase:
    """image (X, Y, Z) int16 in HU, label (X, Y, Z) uint8 (see LABELS), affine (4, 4) to RAS mm, as stored."""

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray
    orientation: str


def make_case(seed: int, number: int, size: tuple[int, int, int] = SIZE) -> PhantomCase:
    """Return case ``number`` of cohort ``seed``; matrix within a tenth of ``size`` (voxels along R, A, S).

    Raises SettingsError for fewer than 16 voxels along an axis or a negative seed or number.
    """
    if min(size) < 16 or min(seed, number) < 0:
        raise SettingsError(
            f"a phantom needs at least 16 voxels an axis and seeds of at least 0, not {size}, {seed}"
        )
    rng = np.random.Generator(np.random.Philox(key=[seed, number]))
    affine, shape, to_body = _draw_scan(rng, size)
    points = _bend(_grid(to_body, shape), rng)
    canvas = Canvas(points, np.linalg.inv(to_body)[:3], slack=2 * _BEND)
    _paint(canvas, rng)
    canvas.hu += rng.standard_normal(shape, np.float32) * np.float32(rng.uniform(25, 60))
    image = np.clip(np.rint(gaussian_filter(canvas.hu, rng.uniform(0.45, 0.7))), -1024, 3071).astype(np.int16)
    return _stored(image, canvas.label, affine, ORIENTATIONS[rng.integers(len(ORIENTATIONS))])


def make_cohort(
    folder: str | Path,
    cases: int = 40,
    seed: int = 0,
    size: tuple[int, int, int] = SIZE,
    labels: bool = True,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Path:
    """Write cases 0 .. cases - 1 as NIfTI with a Decathlon-style dataset.json and return the folder.

    imagesTr/torso_0000.nii.gz (int16 HU), labelsTr likewise (uint8; none without ``labels``). Existing files
    are replaced. Raises SettingsError for a cohort without cases.
    """
    if cases < 1:
        raise SettingsError("a cohort needs at least one case")
    root = Path(folder)
    training = []
    for number in range(cases):
        case = make_case(seed, number, size)
        entry = {"image": f"./imagesTr/torso_{number:04d}.nii.gz"}
        _write_nifti(root / entry["image"], case.image, case.affine)
        if labels:
            entry["label"] = f"./labelsTr/torso_{number:04d}.nii.gz"
            _write_nifti(root / entry["label"], case.label, case.affine)
        training.append(entry)
        progress(number + 1, cases, f"synthetic case {number + 1} of {cases}")
    names = {str(value): name for name, value in LABELS.items()} if labels else {}
    header = {
        **_HEADER,
        "labels": names,
        "numTraining": cases,
        "numTest": 0,
        "training": training,
        "test": [],
    }
    _replace(root / "dataset.json", json.dumps(header, indent=1).encode())
    return root


def _draw_scan(rng: np.random.Generator, size: tuple[int, int, int]) -> tuple[np.ndarray, tuple, np.ndarray]:
    """Draw body and scanner: affine (4, 4) to RAS mm, shape, and the affine (4, 4) to reference mm."""
    stretch = rng.uniform((0.86, 0.86, 0.92), (1.14, 1.16, 1.08))
    shape = tuple(int(n) for n in np.rint(np.array(size) * rng.uniform(0.9, 1.1, 3)))
    half_width = HALF_BODY[0] * stretch[0] * rng.uniform(1.08, 1.24)
    half_height = HALF_BODY[2] * stretch[2] * rng.uniform(0.98, 1.08)
    spacing = 2 * np.array([half_width, half_width, half_height]) / shape
    centre = rng.uniform(-150, 150, 3)
    affine = np.eye(4)
    affine[:3, :3] = rotation(rng.uniform(-6, 6, 3)) * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    patient = np.eye(4)
    patient[:3, :3] = rotation(rng.uniform(-5, 5, 3)) * stretch
    patient[:3, 3] = centre + rng.uniform(-8, 8, 3)
    return affine, shape, np.linalg.inv(patient) @ affine


def _grid(to_body: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Reference millimetres (3, X, Y, Z) float32 of all voxel centres."""
    i, j, k = np.ogrid[tuple(slice(n) for n in shape)]
    rows = to_body.astype(np.float32)
    return np.stack([row[0] * i + row[1] * j + row[2] * k + row[3] for row in rows[:3]]).astype(np.float32)


def _bend(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift each coordinate by slow waves along the other two: no two bodies have the same outline."""
    wavelength, phase = rng.uniform(220, 420, (3, 2)), rng.uniform(0, 2 * np.pi, (3, 2))
    height = rng.uniform(0, _BEND / 2, (3, 2))
    bent = points.copy()
    for axis in range(3):
        for wave in range(2):
            along = points[(axis + 1 + wave) % 3]
            angle = along * np.float32(2 * np.pi / wavelength[axis, wave]) + np.float32(phase[axis, wave])
            bent[axis] += np.float32(height[axis, wave]) * np.sin(angle)
    return bent


def _paint(canvas: Canvas, rng: np.random.Generator) -> None:
    hu = {kind: value + rng.uniform(-8, 8) for kind, value in TISSUES.items()}
    scale = {kind: rng.uniform(0.9, 1.1, 3) for kind in TISSUES}
    scale["nodule"][:] = scale["nodule"][0]  # round in every case
    paint_trunk(canvas, hu, rng.uniform(0.05, 0.14), rng)
    paint_spine(canvas, hu, rng)
    paint_vessels(canvas, hu)
    for organ in ORGANS:
        _paint_organ(canvas, organ, hu, scale[organ.kind], rng)


def _paint_organ(
    canvas: Canvas, organ: Organ, hu: dict[str, float], scale: np.ndarray, rng: np.random.Generator
) -> None:
    centre = np.array(organ.centre) + rng.uniform(-organ.sway, organ.sway, 3)
    turn = rotation(rng.uniform(-organ.turn, organ.turn, 3))
    radii = np.array(organ.radii) * scale
    canvas.ellipsoid(centre, radii, turn, hu[organ.kind], LABELS[organ.label])
    for kind, offset, share in INSIDE.get(organ.kind, ()):
        canvas.ellipsoid(centre + turn @ (np.array(offset) * radii), radii * share, turn, hu[kind], None)


def _stored(image: np.ndarray, label: np.ndarray, affine: np.ndarray, codes: str) -> PhantomCase:
    """Turn arrays in R, A, S order into the orientation ``codes``; the world position of each voxel stays."""
    from nibabel import orientations as turning

    change = turning.ornt_transform(turning.axcodes2ornt("RAS"), turning.axcodes2ornt(codes))
    moved = affine @ turning.inv_ornt_aff(change, image.shape)
    return PhantomCase(
        np.ascontiguousarray(turning.apply_orientation(image, change)),
        np.ascontiguousarray(turning.apply_orientation(label, change)),
        moved,
        codes,
    )


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    # No time and no name in the gzip header: the same case is the same file, byte for byte.
    _replace(path, gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _replace(path: Path, content: bytes) -> None:
    """Write beside, then rename, so that nobody ever reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    move(beside, path)
