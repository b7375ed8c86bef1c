"""The crop preview of the Slicer module on a volume of 512 x 512 x 300: dragging, and what the GUI waits for.

Run: python Testing/benchmarks/bench_preview.py
Prints a JSON list. A drag is one step of the crop's ROI: labels, heat overlay and listeners; then also the three
slice views' images, made by Slicer's own slice logic on the CPU (in Slicer they are drawn at the next idle moment).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
STEPS, SIDE = 300, 512


def main() -> None:
    """Measure and print."""
    # Before Testing/ could get onto the path: slicer-core takes every folder called "slicer" there for its own.
    sys.path[:] = [path for path in sys.path if Path(path).name != "Testing"]
    import slicer

    sys.path[:0] = [str(ROOT / "VoCoSlicer"), str(ROOT / "Testing" / "slicer")]
    from preview_scene import VIEWS, chosen, sceneWithViews

    from VoCoSlicerLib.preview import CropPreview

    scene = sceneWithViews()
    node = big_volume(scene)
    views = [slice_logic(scene, name) for name in VIEWS]
    preview = CropPreview(scene)
    preview.setVolume(node)
    preview.setSettings(chosen(preset="base"))
    preview.present(heat=True)
    rows = starting(preview)
    touched: list[int] = []
    preview.labelsChanged.connect(lambda: touched.append(len(preview.labels)))
    rows += dragging(preview, views)
    assert len(touched) == 2 * STEPS
    preview.cleanup()
    assert slicer.util is not None
    print(json.dumps(rows))


def big_volume(scene: Any) -> Any:
    """A noisy ellipsoid, int16, oblique and anisotropic."""
    import made_scene

    z, y, x = np.ogrid[-1:1:300j, -1:1:512j, -1:1:512j]
    array = np.where(x**2 + (y / 0.7) ** 2 + (z / 0.95) ** 2 < 0.8, 40, -1000).astype(np.int16)
    array += np.random.default_rng(0).integers(-30, 30, array.shape, np.int16)
    node = made_scene.volume(scene, array, "big", "oblique")
    node.CreateDefaultDisplayNodes()
    return node


def slice_logic(scene: Any, name: str) -> Any:
    """The logic of one slice view, with its node."""
    import slicer

    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLScene(scene)
    view = scene.GetNodeByID(f"vtkMRMLSliceNode{name}")
    logic.SetSliceNode(view)
    view.SetOrientation({"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}[name])
    view.SetDimensions(SIDE, SIDE, 1)
    view.SetFieldOfView(700, 700, 1)
    return logic


def starting(preview: Any) -> list[dict[str, Any]]:
    """Switching the preview on: the longest call, and the time until the overlay is up."""
    begun = time.perf_counter()
    longest = timed(preview.show)
    while not preview.ready:
        time.sleep(0.005)
        longest = max(longest, timed(preview.poll))
    seconds = time.perf_counter() - begun
    return [
        row("overlay up after switching on (in a thread)", "s", seconds, 0.0, ""),
        row("longest call meanwhile", "ms", longest, 0.0, "50 ms at most"),
    ]


def dragging(preview: Any, views: list[Any]) -> list[dict[str, Any]]:
    """One step of the ROI, with and without the images of three slice views."""
    world = preview.world
    centres = world.centres[0] + np.linspace(0, 1, STEPS)[:, None] * (world.centres[-1] - world.centres[0])

    def images() -> None:
        for logic in views:
            logic.UpdatePipeline()
            logic.GetImageDataConnection().GetProducer().Update()

    def step(centre: np.ndarray, draw: bool) -> None:
        preview.roiNode.SetCenterWorld(*centre)
        if draw:
            images()

    images()
    rows = []
    for draw, name in (
        (False, "a drag: labels and overlays"),
        (True, "a drag and the images of three views"),
    ):
        figures = [timed(partial(step, centre, draw)) for centre in centres]
        slow = float(np.percentile(figures, 95))
        rows.append(
            row(
                f"{name} (512^2 x 300)", "ms", statistics.median(figures), slow, "16 ms at most; spread: 95 %"
            )
        )
    return rows


def timed(work: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    begun = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begun)


def row(name: str, unit: str, ours: float, spread: float, goal: str) -> dict[str, Any]:
    """One line of the table that `run.py bench` prints."""
    return {
        "name": name,
        "unit": unit,
        "ours": ours,
        "baseline": None,
        "ratio": None,
        "spread": spread,
        "goal": goal,
    }


if __name__ == "__main__":
    main()
