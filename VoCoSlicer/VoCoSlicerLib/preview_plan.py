"""Finding what preparing would do to a volume, in a worker thread: the GUI asks, goes on, and looks again later.

The thread works on a shallow copy of the image (the values are shared, no MRML there). Plans are kept by the
image's modification time, its place in space and the settings that matter, so dragging a crop, changing the
counts of the same volume size or coming back to a volume never computes again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from VoCoCore.data.apply import apply_plan
from VoCoCore.data.plan import Plan, plan_case
from VoCoCore.errors import DataError, VocoError
from VoCoCore.geometry import is_invertible
from VoCoCore.settings import PretrainSettings
from VoCoSlicerLib.image_files import sameGrid
from VoCoSlicerLib.resample import exportGrid, linear
from VoCoSlicerLib.threads import begin, giveTurn
from VoCoSlicerLib.titles import titleOf
from VoCoSlicerLib.volumes import DAMAGED, rasMatrix

MOST_KEPT = 6
STRAIGHTENED = "its axes are not at right angles: resampled to straight ones, as the job will read it"


@dataclass(frozen=True)
class Request:
    """What a plan is made from: shared images, one a channel, with their affines (4, 4), the settings, and the key that
    names them.
    """

    key: Hashable
    images: tuple[vtk.vtkImageData, ...]
    affines: tuple[np.ndarray, ...]
    settings: PretrainSettings


def requestOf(nodes: Sequence[Any], settings: PretrainSettings) -> Request:
    """The request for ``nodes``, scalar volumes: the channels of one case. Raises DataError for one of no use."""
    found = [_shared(node) for node in nodes]
    images, affines = (tuple(parts) for parts in zip(*found, strict=True))
    matters = (settings.prepare, settings.crops.volume_size, settings.data.body_part)
    stamps = (
        (node.GetID(), node.GetImageData().GetMTime(), affine.tobytes())
        for node, affine in zip(nodes, affines, strict=True)
    )
    return Request((*stamps, matters), images, affines, settings)


def _shared(node: Any) -> tuple[vtk.vtkImageData, np.ndarray]:
    image = node.GetImageData() if node.IsA("vtkMRMLScalarVolumeNode") else None
    if image is None or image.GetPointData().GetScalars() is None or min(image.GetDimensions()) < 1:
        raise DataError(f"{titleOf(node)} holds no image", "load it again, or choose another volume")
    if min(image.GetDimensions()) < 2:
        shape = " x ".join(map(str, image.GetDimensions()))
        raise DataError(f"{titleOf(node)} is not 3D: {shape} voxels", "choose another volume")
    if image.GetNumberOfScalarComponents() != 1:
        raise DataError(
            f"{titleOf(node)} holds {image.GetNumberOfScalarComponents()} values a voxel",
            "choose a scalar volume: convert colours or vectors with the module Vector to Scalar Volume",
        )
    shared = vtk.vtkImageData()
    shared.ShallowCopy(image)
    affine = rasMatrix(node)
    if not is_invertible(affine):
        raise DataError(f"{titleOf(node)} cannot be cut: {DAMAGED}", "choose another volume")
    return shared, affine


def caseOf(request: Request) -> tuple[np.ndarray, np.ndarray]:
    """The case as jobs will read it: values (C, X, Y, Z) and affine (4, 4), a view where nothing is resampled."""
    shape, target = exportGrid(request.images[0].GetDimensions(), request.affines[0])
    channels = []
    for image, affine in zip(request.images, request.affines, strict=True):
        x, y, z = image.GetDimensions()
        array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z, y, x)
        there = sameGrid((x, y, z), affine, shape, target)
        channels.append((array if there else linear(array, affine, shape, target)).transpose(2, 1, 0))
    return (channels[0][None] if len(channels) == 1 else np.stack(channels)), target


def planOf(request: Request) -> Plan:
    """The plan of ``request``; seconds for a large volume. Raises DataError as `plan_case` does."""
    settings = request.settings
    size = settings.crops.volume_size
    assert size
    array, affine = caseOf(request)
    plan = plan_case(array, affine, settings.prepare, size, settings.data.body_part)
    straight = affine is request.affines[0]
    return plan if straight else replace(plan, notes=(STRAIGHTENED, *plan.notes))


class Background:
    """One thing at a time in a thread; what was asked last comes next, what was asked before it is dropped.

    ``work(request)`` runs in the thread; its value, or the VocoError that it raised, is kept by ``request.key``.
    """

    def __init__(self, work: Callable[[Any], Any], kept: int = MOST_KEPT) -> None:
        self._work = work
        self._kept = kept
        self._known: OrderedDict[Hashable, Any] = OrderedDict()
        self._next: Any = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def ask(self, request: Any) -> Any:
        """The value (or VocoError) of ``request``, or None: then it is on its way."""
        with self._lock:
            if request.key in self._known:
                self._known.move_to_end(request.key)
                return self._known[request.key]
            self._next = request
            if self._thread is None:
                self._thread = begin(self._run, "VoCo preview")
        return None

    def turn(self) -> None:
        """Let the thread get on, for some milliseconds at most; at once where there is none (see `threads`)."""
        thread = self._thread
        if thread is not None:
            giveTurn(thread)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until nothing is being worked on; for scripts, never for a GUI."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def forget(self) -> None:
        """Let go of everything kept, and of what waits."""
        with self._lock:
            self._known.clear()
            self._next = None

    def _run(self) -> None:
        while True:
            with self._lock:
                request, self._next = self._next, None
                if request is None or request.key in self._known:
                    self._thread = None
                    return
            value = self._value(request)
            with self._lock:
                self._known[request.key] = value
                while len(self._known) > self._kept:
                    self._known.popitem(last=False)

    def _value(self, request: Any) -> Any:
        try:
            return self._work(request)
        except VocoError as error:
            return error
        except MemoryError:
            return DataError(
                "the memory of this computer is not enough for this volume", "close other volumes"
            )
        except Exception as error:  # a thread's traceback would reach nobody
            return VocoError(f"the preview failed: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class PrepareRequest:
    """A request for the prepared values of ``request``, as ``plan`` says."""

    key: Hashable
    request: Request
    plan: Plan


def preparedOf(asked: PrepareRequest) -> np.ndarray:
    """The prepared channels (C, X, Y, Z) uint8, as the trainer's store holds them: 255 stands for 1.

    They lie in memory as VTK has them, x innermost: turning them round takes longer than a window may wait.
    """
    values = apply_plan(caseOf(asked.request)[0], asked.plan)
    return np.ascontiguousarray(values.transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1)
