"""The anatomy of the synthetic torso and the canvas that it is painted on.

Everything is in reference millimetres: x towards the patient's Right, y Anterior, z Superior, from the centre
of a body 320 mm wide, 224 mm deep and 300 mm tall. Each case stretches, turns and bends it (phantom.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HALF_BODY = (160.0, 112.0, 150.0)
CAVITY = 0.79  # radius of the chest and belly inside ribs and muscle, as a share of the body's

LABELS = {
    "background": 0,
    "liver": 1,
    "spleen": 2,
    "kidney_right": 3,
    "kidney_left": 4,
    "stomach": 5,
    "gallbladder": 6,
    "aorta": 7,
    "vena_cava": 8,
    "heart": 9,
    "lung_right": 10,
    "lung_left": 11,
    "spine": 12,
    "nodule_lung_right": 13,
    "nodule_lung_left": 14,
    "nodule_flank_right": 15,
    "nodule_flank_left": 16,
}

# Hounsfield units of a scan in the portal venous phase.
TISSUES = {
    "air": -1000.0,
    "lung": -850.0,
    "fat": -100.0,
    "fluid": 8.0,
    "bowel": 32.0,
    "muscle": 58.0,
    "nodule": 75.0,
    "wall": 80.0,
    "pancreas": 88.0,
    "liver": 108.0,
    "disc": 95.0,
    "spleen": 122.0,
    "heart": 105.0,
    "vessel": 165.0,
    "kidney": 190.0,
    "marrow": 260.0,
    "bone": 620.0,
}


@dataclass(frozen=True)
class Organ:
    """An ellipsoid; ``kind`` names its tissue and the size that it shares with its look-alikes."""

    kind: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    label: str = "background"
    sway: float = 5.0
    turn: float = 10.0


_NODULE = (11.0, 11.0, 11.0)

# Painted in this order, later over earlier. Look-alikes differ in nothing but their place.
ORGANS = (
    Organ("pancreas", (-4, 4, -42), (52, 12, 13)),
    Organ("liver", (66, 2, -14), (70, 74, 66), "liver"),
    Organ("liver", (4, 40, 8), (58, 32, 34), "liver"),
    Organ("spleen", (-88, -28, -4), (27, 38, 44), "spleen"),
    Organ("wall", (-52, 36, -22), (36, 33, 44), "stomach"),
    Organ("kidney", (58, -36, -76), (25, 23, 46), "kidney_right"),
    Organ("kidney", (-58, -36, -70), (25, 23, 46), "kidney_left"),
    Organ("fluid", (50, 56, -82), (16, 16, 24), "gallbladder"),
    Organ("fluid", (-50, 56, -92), (16, 16, 24)),
    Organ("heart", (-16, 20, 86), (52, 42, 42), "heart"),
    Organ("nodule", (76, 4, 112), _NODULE, "nodule_lung_right"),
    Organ("nodule", (-78, 4, 112), _NODULE, "nodule_lung_left"),
    Organ("nodule", (82, -34, 74), _NODULE),
    Organ("nodule", (-82, -34, 74), _NODULE),
    Organ("nodule", (102, 2, -100), _NODULE, "nodule_flank_right"),
    Organ("nodule", (-102, 2, -100), _NODULE, "nodule_flank_left"),
    Organ("nodule", (0, 62, -116), _NODULE),
)

# What lies inside an organ: (kind of the part, offset from the organ's centre, share of its radii).
INSIDE = {
    "wall": (("bowel", (0.0, 0.0, 0.0), 0.82), ("air", (0.0, 0.50, 0.1), 0.42)),
    "kidney": (("fat", (0.0, 0.0, 0.0), 0.30),),
    "heart": (("vessel", (0.38, 0.15, 0.1), 0.42), ("vessel", (-0.36, -0.12, -0.05), 0.44)),
}


class Canvas:
    """HU and labels of one case, painted by implicit functions of the body's own coordinates.

    points: (3, X, Y, Z) float32, reference millimetres of each voxel. to_index (3, 4): the linear way back,
    right within ``slack`` millimetres. hu float32, label uint8, cavity bool (organs stay in it), (X, Y, Z).
    """

    def __init__(self, points: np.ndarray, to_index: np.ndarray, slack: float) -> None:
        self.points, self.to_index, self.slack = points, to_index, slack
        self.hu = np.full(points.shape[1:], TISSUES["air"], np.float32)
        self.label = np.zeros(points.shape[1:], np.uint8)
        self.cavity = np.ones(points.shape[1:], bool)

    def around(self, centre: np.ndarray, radii: np.ndarray) -> tuple[slice, ...]:
        """Slices of the voxels that may lie within ``radii`` of ``centre``, however turned."""
        reach = np.abs(self.to_index[:, :3]) @ (np.asarray(radii) + self.slack) + 1.5
        middle = self.to_index[:, :3] @ centre + self.to_index[:, 3]
        low = np.clip(np.floor(middle - reach), 0, self.hu.shape).astype(int)
        high = np.clip(np.ceil(middle + reach) + 1, 0, self.hu.shape).astype(int)
        return tuple(slice(a, b) for a, b in zip(low, high, strict=True))

    def paint(self, where: tuple[slice, ...], mask: np.ndarray, hu: float, label: int | None) -> None:
        """Set ``hu`` where ``mask`` holds; ``label`` too unless it is None (a part of an organ)."""
        self.hu[where][mask] = hu
        if label is not None:
            self.label[where][mask] = label

    def ellipsoid(
        self, centre: np.ndarray, radii: np.ndarray, turn: np.ndarray, hu: float, label: int | None
    ) -> None:
        """Paint an ellipsoid whose axes are the columns of ``turn`` (3, 3)."""
        where = self.around(centre, np.abs(turn) @ radii)
        offset = self.points[(slice(None), *where)] - np.asarray(centre, np.float32)[:, None, None, None]
        along = np.tensordot((turn / radii).T.astype(np.float32), offset, axes=1)
        inside = (np.einsum("cxyz,cxyz->xyz", along, along) < 1) & self.cavity[where]
        self.paint(where, inside, hu, label)

    def column(self, centre: tuple[float, float], radii: tuple[float, float], hu: float, **limits) -> None:
        """Paint an elliptic column along z; limits: bottom, top (mm), label."""
        x, y, z = self.points
        bottom, top = limits.get("bottom", -np.inf), limits.get("top", np.inf)
        where = self.around(np.array([*centre, 0.0]), np.array([*radii, 1e3]))
        x, y, z = x[where] - centre[0], y[where] - centre[1], z[where]
        inside = (x / radii[0]) ** 2 + (y / radii[1]) ** 2 < 1
        self.paint(where, inside & (z > bottom) & (z < top), hu, limits.get("label", 0))


def rotation(degrees: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[one, two], [one, two]] = np.cos(angle)
        turn[one, two], turn[two, one] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def winding(points: np.ndarray, wavelength: float, rng: np.random.Generator) -> np.ndarray:
    """A gyroid in [-1.5, 1.5] at points (3, n) of random direction and phase: no place shows in it."""
    turned = (rotation(rng.uniform(0, 360, 3)) * (2 * np.pi / wavelength)).astype(np.float32) @ points
    x, y, z = turned + rng.uniform(0, 2 * np.pi, (3, 1)).astype(np.float32)
    return np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) + np.sin(z) * np.cos(x)


def paint_trunk(canvas: Canvas, hu: dict[str, float], fat: float, rng: np.random.Generator) -> None:
    """Paint skin to cavity, ribs, bowel and lungs; ``fat`` is its layer's share of the body's radius."""
    x, y, z = canvas.points
    across, deep = (x / HALF_BODY[0]) ** 2, (y / HALF_BODY[1]) ** 2
    radius = np.sqrt(across + deep - 0.3 * across * deep)  # an ellipse with fuller corners
    canvas.cavity = radius < CAVITY
    canvas.hu[radius < 1] = hu["fat"]
    canvas.hu[radius < 1 - fat] = hu["muscle"]
    canvas.hu[canvas.cavity] = hu["fat"]
    # Ribs run forwards and down, so that an axial slice cuts each of them once.
    level = np.cos((z - 0.35 * y) * (2 * np.pi / 27) + rng.uniform(0, 2 * np.pi))
    ring = np.abs(radius - CAVITY - 0.03) < 0.035
    canvas.hu[ring & (level > 0.35) & (z > -35) & (y < 75)] = hu["bone"]
    canvas.hu[(np.abs(x) < 18) & ring & (y > 0) & (z > 25)] = hu["marrow"]
    bowel = (radius < 0.62) & (z < -35) & (y > -25)
    canvas.hu[bowel] = np.where(winding(canvas.points[:, bowel], 62, rng) > -0.15, hu["bowel"], hu["fat"])
    _paint_lungs(canvas, hu, radius < CAVITY - 0.015, rng)


def _paint_lungs(canvas: Canvas, hu: dict[str, float], chest: np.ndarray, rng: np.random.Generator) -> None:
    x, y, z = canvas.points
    canvas.hu[chest & (z > 40) & (np.abs(x) < 45)] = hu["muscle"] - 20
    for side, name, dome in ((1.0, "lung_right", 50.0), (-1.0, "lung_left", 40.0)):
        floor = dome - ((side * x - 60) / 60) ** 2 * 45 - (y / 80) ** 2 * 40
        lung = chest & (side * x > 20 + 0.1 * y) & (z > floor)
        vessels = winding(canvas.points[:, lung], 47, rng) + winding(canvas.points[:, lung], 29, rng)
        canvas.hu[lung] = hu["lung"] + 500 * np.clip(np.abs(vessels) - 1.35, 0, 1)
        canvas.label[lung] = LABELS[name]
    canvas.column((0, -8), (9, 9), hu["air"], bottom=112)


def paint_spine(canvas: Canvas, hu: dict[str, float], rng: np.random.Generator) -> None:
    """Paint the muscles of the back, vertebrae with discs between them, and the canal."""
    for side in (-1, 1):
        canvas.column((side * 34, -80), (27, 17), hu["muscle"])
        canvas.column((side * 36, -62), (12, 7), hu["bone"], label=LABELS["spine"])
    canvas.column((0, -92), (5, 17), hu["bone"], label=LABELS["spine"])
    canvas.column((0, -56), (23, 19), hu["bone"], label=LABELS["spine"])
    canvas.column((0, -56), (19, 15), hu["marrow"], label=LABELS["spine"])
    canvas.column((0, -79), (9, 8), hu["fluid"] + 20, label=LABELS["spine"])
    gap = np.cos(canvas.points[2] * (2 * np.pi / 33) + rng.uniform(0, 2 * np.pi)) > 0.8
    bone = (canvas.label == LABELS["spine"]) & gap
    canvas.hu[bone & (canvas.points[1] > -74)] = hu["disc"]
    lateral = bone & (np.abs(canvas.points[0]) > 24)
    canvas.hu[lateral], canvas.label[lateral] = hu["muscle"], 0


def paint_vessels(canvas: Canvas, hu: dict[str, float]) -> None:
    """Paint aorta and vena cava: the same width and HU, to the left and to the right of the midline."""
    canvas.column((-16, -24), (12, 12), hu["vessel"], top=118, label=LABELS["aorta"])
    canvas.column((16, -24), (12, 12), hu["vessel"], top=60, label=LABELS["vena_cava"])
