"""Finding what preparing would do to a volume, in a worker thread: the GUI asks, goes on, and looks again later.

The thread works on a shallow copy of the image (the values are shared, no MRML there). Plans are kept by the
image's modification time, its place in space and the settings that matter, so dragging a crop, changing the
counts of the same volume size or coming back to a volume never computes again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from VoCoCore.data.apply import apply_plan
from VoCoCore.data.plan import Plan, plan_case
from VoCoCore.errors import DataError, VocoError
from VoCoCore.geometry import shear_of
from VoCoCore.settings import PretrainSettings
from VoCoSlicerLib.threads import giveTurn
from VoCoSlicerLib.volumes import rasMatrix

MOST_KEPT = 6
MOST_SHEAR = 1e-3  # cosine; as the trainer warns


@dataclass(frozen=True)
class Request:
    """What a plan is made from: a shared image, its affine (4, 4), the settings, and the key that names them."""

    key: Hashable
    image: vtk.vtkImageData
    affine: np.ndarray
    settings: PretrainSettings


def requestOf(node: Any, settings: PretrainSettings) -> Request:
    """The request for ``node``, a scalar volume. Raises DataError for one that cannot be cut."""
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or min(image.GetDimensions()) < 1:
        raise DataError(f"{node.GetName()} holds no image", "load it again, or choose another volume")
    if image.GetNumberOfScalarComponents() != 1:
        raise DataError(
            f"{node.GetName()} holds {image.GetNumberOfScalarComponents()} values a voxel",
            "choose a scalar volume: convert colours or vectors with the module Vector to Scalar Volume",
        )
    affine = rasMatrix(node)
    if shear_of(affine) > MOST_SHEAR:
        raise DataError(
            f"{node.GetName()} is sheared: its axes are not at right angles",
            "resample it first, for example with the module Resample Scalar/Vector/DWI Volume",
        )
    shared = vtk.vtkImageData()
    shared.ShallowCopy(image)
    matters = (settings.prepare, settings.crops.volume_size, settings.data.body_part)
    return Request((node.GetID(), image.GetMTime(), affine.tobytes(), matters), shared, affine, settings)


def arrayOf(image: vtk.vtkImageData) -> np.ndarray:
    """A view (1, X, Y, Z) of the values of an image of one component."""
    x, y, z = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z, y, x).transpose(2, 1, 0)[None]


def planOf(request: Request) -> Plan:
    """The plan of ``request``; seconds for a large volume. Raises DataError as `plan_case` does."""
    settings = request.settings
    size = settings.crops.volume_size
    assert size
    return plan_case(arrayOf(request.image), request.affine, settings.prepare, size, settings.data.body_part)


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
                self._thread = threading.Thread(target=self._run, name="VoCo preview", daemon=True)
                self._thread.start()
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
    """The prepared volume (X, Y, Z) uint8, as the trainer's store holds it: 255 stands for 1."""
    return apply_plan(arrayOf(asked.request.image), asked.plan)[0]
