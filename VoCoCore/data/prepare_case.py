"""Prepares one case: read, plan, carry out, store; what was done is kept beside the result."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from VoCoCore import __version__
from VoCoCore.data.apply import LARGEST_ERROR, apply_plan
from VoCoCore.data.cases import Case
from VoCoCore.data.images import content_hash, read_case
from VoCoCore.data.plan import Plan, Size, plan_case, planned_body_part
from VoCoCore.data.store import FORMAT, Store, case_key
from VoCoCore.errors import DataError, EnvironmentFault
from VoCoCore.settings import PretrainSettings


@dataclass(frozen=True)
class Prepared:
    """One prepared case: its key in the store, the hashes of its images, and what a person should know."""

    key: str
    content: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def prepare_case(
    case: Case, settings: PretrainSettings, store: Store, content: Sequence[str] | None = None
) -> Prepared:
    """Prepare one case unless the store has it already; ``content``: the hashes of its images, where known.

    Raises DataError, naming the file, for a case that cannot be used; EnvironmentFault for disk or memory.
    """
    hashes = tuple(content or (content_hash(source) for source in case.images))
    key = key_of(case, settings, hashes)
    if store.has(key):
        return Prepared(key, hashes)
    with store.lock(key):
        if store.has(key):
            return Prepared(key, hashes)
        try:
            warnings = _prepare(case, settings, store, key, hashes)
        except MemoryError:
            hint = "use fewer processes (data.workers), or a machine with more memory"
            raise EnvironmentFault(f"there is not enough memory to prepare {case.id}", hint) from None
    return Prepared(key, hashes, warnings)


def key_of(case: Case, settings: PretrainSettings, content: Sequence[str]) -> str:
    """The key under which a case lies in a store, given the hashes of its images and the settings."""
    part = planned_body_part(settings.prepare, body_part(case, settings))
    return case_key(content, settings.prepare, volume_size(settings), part)


def body_part(case: Case, settings: PretrainSettings) -> str | None:
    """What the list of cases, or else the settings, say that a case shows."""
    return case.body_part or settings.data.body_part


def volume_size(settings: PretrainSettings) -> Size:
    """The resolved size of the volume that the grid divides."""
    assert settings.crops.volume_size is not None, "settings are resolved before cases are prepared"
    return settings.crops.volume_size


def _prepare(
    case: Case, settings: PretrainSettings, store: Store, key: str, content: Sequence[str]
) -> tuple[str, ...]:
    array, affine = read_case(case)
    try:
        plan = plan_case(array, affine, settings.prepare, volume_size(settings), body_part(case, settings))
    except DataError as error:
        raise DataError(f"{case.images[0].path}: {error.message}", error.hint) from None
    store.write(key, apply_plan(array, plan), _header(plan, settings, key, content))
    return plan.warnings


def _header(plan: Plan, settings: PretrainSettings, key: str, content: Sequence[str]) -> dict[str, Any]:
    """What is kept beside the voxels: no path and no name, whatever the case was called."""
    return {
        "format": FORMAT,
        "key": key,
        "content": list(content),
        "affine": plan.affine.tolist(),
        "quantisation": {"dtype": "uint8", "value": "stored / 255", "largest_error": LARGEST_ERROR},
        "plan": plan.to_dict(),
        "settings": {"prepare": settings.prepare.to_dict(), "volume_size": list(volume_size(settings))},
        "software": {
            "VoCoCore": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "zarr")},
        },
    }
