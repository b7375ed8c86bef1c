"""Did it learn? One plain answer from the latest look at held-out volumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

from VoCoCore.data.patients import cases_of

FEW_PATIENTS = 5


@dataclass(frozen=True)
class Verdict:
    """``kind`` is good, bad or note; ``title`` is the answer, ``text`` its grounds in full sentences."""

    kind: str
    title: str
    text: str


def number(values: Mapping[str, Any], name: str) -> float:
    """The finite number ``name`` of ``values``, NaN for anything else."""
    value = values.get(name)
    return float(value) if isinstance(value, int | float) and isfinite(value) else nan


def percent(value: float) -> str:
    """A share as text: 0.625 is "62 %", NaN is "unknown"."""
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%" if isfinite(value) else "unknown"


def judge(values: Mapping[str, Any] | None, bases: int | None, active: bool) -> Verdict:
    """The verdict on held-out metrics (names as the ``val`` split's; None: not yet any).

    It learned when the lower 95 % bound of the position accuracy lies above chance and the shuffled control.
    ``bases``: how many base crops there are to choose from; ``active``: the run goes on.
    """
    if values is None:
        when = "so far" if active else "in this run"
        text = (
            "Whether the network learns shows on volumes that it does not train on, once they are looked at."
        )
        return Verdict("note", f"No held-out volumes were looked at {when}", text)
    accuracy, low, high = (number(values, n) for n in ("position_accuracy", "accuracy_low", "accuracy_high"))
    chance, shuffled, volumes = (number(values, n) for n in ("chance", "shuffled_accuracy", "volumes"))
    patients = number(values, "patients") if "patients" in values else volumes
    if not isfinite(accuracy):
        return Verdict(
            "bad",
            "The network's answers are not numbers",
            "Training has diverged; see the curves and warnings.",
        )
    grounds = _grounds(accuracy, low, high, chance, shuffled, _seen(volumes, patients), bases)
    one = "volume" if volumes == patients else "patient"
    if not isfinite(low) or not isfinite(chance) or patients == 1:
        return Verdict(
            "note",
            "Whether it learned cannot be told",
            f"{grounds} One {one} is too few to tell luck from learning.",
        )
    if 1 < patients < FEW_PATIENTS:
        grounds += f" With only {patients:.0f} held-out {one}s the interval is rough."
    if low > chance and not low <= shuffled:
        caution = "This says that pre-training works; it does not measure a segmentation or a diagnosis."
        return Verdict(
            "good", "The network has learned where in the body a crop comes from", f"{grounds} {caution}"
        )
    level = "chance" if low <= chance else "the shuffled control"
    advice = (
        "It may need more steps or more volumes; where base crops grow alike (see the curves), it collapsed."
    )
    title = (
        "It is not shown"
        + (" so far" if active else "")
        + " that the network has learned where a crop comes from"
    )
    return Verdict(
        "note" if active else "bad", title, f"{grounds} The interval reaches down to {level}. {advice}"
    )


def _seen(volumes: float, patients: float) -> str:
    """What crops were of, in words."""
    if not volumes >= 1:
        return "volumes"
    return cases_of(int(volumes), int(patients), "volume") if volumes > 1 else "one volume"


def _grounds(
    accuracy: float,
    low: float,
    high: float,
    chance: float,
    shuffled: float,
    seen: str,
    bases: int | None,
) -> str:
    choice = f"one of {bases} places" if bases else "place"
    bounds = f" (95 % interval {percent(low)} to {percent(high)})" if isfinite(low) and isfinite(high) else ""
    text = (
        f"Shown crops of {seen} that it had never trained on, the network named the right {choice} "
        f"for {percent(accuracy)} of them{bounds}."
    )
    if isfinite(chance):
        text += f" Always naming the commonest place would be right for {percent(chance)}"
        text += (
            f"; the same answers against shuffled labels, for {percent(shuffled)}."
            if isfinite(shuffled)
            else "."
        )
    return text
