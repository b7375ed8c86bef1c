"""Prepares one case: read, plan, carry out, store; what was done is kept beside the result."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from VoCoCore import __version__
from VoCoCore.data.apply import LEVELS, apply_plan
from VoCoCore.data.cases import Case
from VoCoCore.data.images import content_hash, read_case
from VoCoCore.data.label_maps import prepared_label, read_label
from VoCoCore.data.places import Places, places_of
from VoCoCore.data.plan import Plan, plan_case
from VoCoCore.data.store import FORMAT, Store, case_key
from VoCoCore.data.wanted import Wanted
from VoCoCore.errors import DataError, EnvironmentFault
from VoCoCore.settings import PretrainSettings


@dataclass(frozen=True)
class Prepared:
    """One prepared case: its key in the store, the hashes of what was read, and what a person should know."""

    key: str
    content: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def prepare_case(
    case: Case, settings: PretrainSettings | Wanted, store: Store, content: Sequence[str] | None = None
) -> Prepared:
    """Prepare one case unless the store has it already; ``content``: the hashes of its files, where known.

    Raises DataError, naming the file, for a case that cannot be used; EnvironmentFault for disk or memory.
    """
    wanted = Wanted.of(settings)
    hashes = tuple(content or (content_hash(source) for source in wanted.sources(case)))
    key = key_of(case, wanted, hashes)
    if store.has(key):
        return Prepared(key, hashes)
    with store.lock(key):
        if store.has(key):
            return Prepared(key, hashes)
        try:
            warnings = _prepare(case, wanted, store, key, hashes)
        except MemoryError:
            hint = "use fewer processes (data.workers), or a machine with more memory"
            raise EnvironmentFault(f"there is not enough memory to prepare {case.id}", hint) from None
    return Prepared(key, hashes, warnings)


def key_of(case: Case, settings: PretrainSettings | Wanted, content: Sequence[str]) -> str:
    """The key under which a case lies in a store, given the hashes of its files and the settings."""
    wanted = Wanted.of(settings)
    part = wanted.planned_part(case)
    return case_key(content, wanted.prepare, wanted.volume_size, part, wanted.beyond())


def _prepare(case: Case, wanted: Wanted, store: Store, key: str, content: Sequence[str]) -> tuple[str, ...]:
    array, affine = read_case(case)
    try:
        plan = plan_case(array, affine, wanted.prepare, wanted.volume_size, wanted.body_part_of(case))
    except DataError as error:
        raise DataError(f"{case.images[0].path}: {error.message}", error.hint) from None
    images = apply_plan(array, plan, np.int16 if wanted.levels == "int16" else np.uint8)
    if wanted.labels is None:
        store.write(key, images, _header(plan, wanted, key, content))
        return plan.warnings
    label = prepared_label(read_label(case, array.shape[1:], affine, wanted.labels, wanted.ignored), plan)
    if (label < 0).all():
        raise DataError(
            f"the label {case.label.path if case.label else ''} says of no voxel that is left what it is: "
            "its marks lie outside the foreground, or between the new voxels",
            "use a finer prepare.spacing, label more of it, or leave the case out",
        )
    places = places_of(label, seed=int(key[:15], 16))
    header = {**_header(plan, wanted, key, content), "labels": _counted(places)}
    store.write(key, np.concatenate([images, label[None]]), header, places.voxels)
    empty = () if (label > 0).any() else ("its label marks nothing",)
    return (*plan.warnings, *empty)


def _counted(places: Places) -> dict[str, list[int]]:
    return {"values": places.values.tolist(), "counts": places.counts.tolist()}


def _header(plan: Plan, wanted: Wanted, key: str, content: Sequence[str]) -> dict[str, Any]:
    """What is kept beside the voxels: no path and no name, whatever the case was called."""
    levels = LEVELS[wanted.levels]
    return {
        "format": FORMAT,
        "key": key,
        "content": list(content),
        "affine": plan.affine.tolist(),
        "quantisation": {
            "dtype": wanted.levels,
            "value": f"stored / {levels}",
            "largest_error": 0.5 / levels,
        },
        "plan": plan.to_dict(),
        "settings": wanted.facts(),
        "software": {
            "VoCoCore": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "zarr")},
        },
    }
