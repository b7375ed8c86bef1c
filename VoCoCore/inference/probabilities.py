"""Probabilities of all classes as one 4D image, written plane by plane, so that they are never held at once."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import IO

import nibabel as nib
import numpy as np

from VoCoCore.data.plan import Plan
from VoCoCore.geometry import is_sheared
from VoCoCore.inference.restore import to_source
from VoCoCore.models.card import ModelCard
from VoCoCore.runs.files import replacing, writing

_LEVELS = 65535  # of a probability from 0 to 1, in 16 bits
_FIRST_VOXEL = 352  # byte of a NIfTI file


class Probabilities:
    """Takes planes of probabilities, in order, and writes them as NIfTI (X, Y, Z, K) with values from 0 to 1.

    ``axis`` of the oriented volume of ``plan``: the one along which planes come. Voxels that never come are background.
    Raises EnvironmentFault where ``path`` cannot be written. A context manager: without an error, the image is there at
    its end.
    """

    def __init__(self, path: Path, card: ModelCard, plan: Plan, axis: int) -> None:
        self.path, self.plan, self.axis = path, plan, axis
        shape = [plan.source_shape[place] for place in plan.order]
        self.planes = shape.pop(axis)
        self.empty = np.zeros((card.outputs, *shape), np.uint16)
        if card.activation == "softmax":
            self.empty[0] = _LEVELS
        self.written = 0

    def __enter__(self) -> Probabilities:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file: IO[bytes] = tempfile.TemporaryFile(dir=self.path.parent)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self.file:
            if kind is None:
                self._finish()

    def __call__(self, at: int, rows: tuple[int, int], columns: tuple[int, int], found: np.ndarray) -> None:
        """Take the plane ``at``: probabilities (K, u, v) of its ``rows`` and ``columns``."""
        plane = self.empty.copy()
        plane[:, slice(*rows), slice(*columns)] = np.rint(found * _LEVELS)
        self._skip_to(at)
        self._append(plane)

    def _skip_to(self, at: int) -> None:
        while self.written < at:
            self._append(self.empty)

    def _append(self, plane: np.ndarray) -> None:
        with writing(self.path):
            self.file.write(plane.tobytes())
        self.written += 1

    def _finish(self) -> None:
        self._skip_to(self.planes)
        with replacing(self.path) as beside:
            self.file.flush()
            with gzip.open(beside, "wb", compresslevel=1) as packed:
                packed.write(self._header().ljust(_FIRST_VOXEL, b"\0"))
                for number in range(len(self.empty)):
                    packed.write(self._class(number).tobytes(order="F"))

    def _class(self, number: int) -> np.ndarray:
        """One class on the grid of the source."""
        one = self.empty[number]
        planes = np.empty((self.planes, *one.shape), np.uint16)
        for at, plane in enumerate(planes):
            self.file.seek((at * len(self.empty) + number) * one.nbytes)
            plane[:] = np.frombuffer(self.file.read(one.nbytes), np.uint16).reshape(one.shape)
        return to_source(np.moveaxis(planes, 0, self.axis), self.plan)

    def _header(self) -> bytes:
        affine = self.plan.source_affine
        header = nib.Nifti1Header()
        header.set_data_dtype(np.uint16)
        header.set_data_shape((*self.plan.source_shape, len(self.empty)))
        header.set_sform(affine, code=1)
        header.set_qform(affine, code=0 if is_sheared(affine) else 1)
        header.set_xyzt_units("mm")
        header["scl_slope"], header["scl_inter"] = 1 / _LEVELS, 0
        header["vox_offset"], header["magic"] = _FIRST_VOXEL, b"n+1"
        return header.binaryblock
