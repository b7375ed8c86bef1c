"""Events as lines that a person reads: the same words in the terminal, in log.txt and in `voco jobs follow`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from VoCoCore.errors import counted


def shell_word(path: str | Path) -> str:
    """A path as one word of a command that a person pastes."""
    text = str(path)
    if os.name == "nt":
        return f'"{text}"' if " " in text else text
    return shlex.quote(text)


def duration(seconds: float | None) -> str:
    """A length of time in the two units that matter: ``45 s``, ``3 min 20 s``, ``5 h 12 min``, ``2 d 4 h``."""
    if not isinstance(seconds, int | float) or not 0 <= seconds < 1e12:  # no number, NaN, infinity
        return "unknown"
    whole = round(seconds)
    for size, word, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {word}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def number(value: Any, digits: int = 4) -> str:
    """A figure as short as it can be; ``-`` where there is none."""
    try:
        return f"{value:.{digits}g}" if isinstance(value, int | float) else "-"
    except OverflowError:  # a whole number of hundreds of digits
        return "-"


def size(count: float) -> str:
    """A number of bytes in the unit that matters: ``512 B``, ``3.4 MB``, ``120 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def setting(value: Any) -> str:
    """A setting's value: ``1 x 1 x 3`` for a size, ``-175 to 250`` for a range, else as it is."""
    if not isinstance(value, list | tuple):
        return str(value)
    return (" x " if len(value) == 3 else " to ").join(f"{part:g}" for part in value)


def one_line(text: object) -> str:
    """``text`` as one line that does nothing to a terminal, whatever a file holds."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def narrate(event: Mapping[str, Any]) -> str | None:
    """One line for ``event``, or None where it says nothing new to a person. Unknown events are passed over."""
    speak = _SPEAKERS.get(str(event.get("type")))
    said = speak(event) if speak else None
    return said if said is None or said.isprintable() else one_line(said)


def _table(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The table ``name`` of an event; an empty one where a file holds something else there."""
    value = event.get(name)
    return value if isinstance(value, Mapping) else {}


def _started(event: Mapping[str, Any]) -> str:
    data = _table(event, "data")
    words = f"started on {event.get('device', 'unknown device')}"
    if event.get("step"):
        words += f", going on from step {event['step']} (attempt {event.get('attempt')})"
    if data:
        words += (
            f": {counted(data.get('train') or 0, 'volume')} to learn from, {data.get('held_out')} held out"
        )
        words += f", {data['test']} for the end" if data.get("test") else ""
        words += f", {data['skipped']} left out" if data.get("skipped") else ""
    return words


def _stage(event: Mapping[str, Any]) -> str | None:
    if "done" not in event:
        return str(event.get("text") or event.get("name"))
    return f"{event.get('name')} {event['done']}/{event.get('total')}  {event.get('text', '')}".rstrip()


def _metrics(event: Mapping[str, Any]) -> str:
    values = _table(event, "values")
    head = f"step {event.get('step')}"
    if event.get("split") != "train" and ("dice" in values or "balanced_accuracy" in values):
        return f"{head}  {_scores(values, 'test' if event.get('split') == 'test' else 'validation')}"
    if event.get("split") == "test":
        return "none of the test cases could be scored"
    if event.get("split") == "val":
        bounds = f"95 % {number(values.get('accuracy_low'), 3)} to {number(values.get('accuracy_high'), 3)}"
        if 1 in (values.get("volumes"), values.get("patients")):  # which has no interval
            bounds = "of one volume" if values.get("volumes") == 1 else "of one patient"
        return (
            f"{head}  held-out position accuracy {number(values.get('position_accuracy'), 3)} ({bounds}, "
            f"chance {number(values.get('chance'), 3)}, labels shuffled {number(values.get('shuffled_accuracy'), 3)})"
        )
    terms = "  ".join(f"{k[5:]} {number(v, 3)}" for k, v in sorted(values.items()) if k.startswith("loss_"))
    return (
        f"{head}  loss {number(values.get('loss'))}  {terms}  {number(values.get('rate'), 3)} steps/s"
        f"  {number(values.get('memory_mb'), 4)} MB"
    )


def _scores(values: Mapping[str, Any], of: str = "validation") -> str:
    """What a look at held-out cases found: Dice with its interval and for each class, or a diagnosis' scores."""
    if "dice" not in values:
        shown = (n for n in ("balanced_accuracy", "accuracy", "auroc") if n in values)
        return f"{of} " + ", ".join(f"{n.replace('_', ' ')} {number(values[n], 3)}" for n in shown)
    names = [n for n in values if n.startswith("dice_") and n not in ("dice_low", "dice_high")]
    each = [f"{name[5:]} {number(values[name], 3)}" for name in names[:8]]
    bounds = ""
    if "dice_low" in values:  # one case has no interval
        bounds = f" (95 % {number(values['dice_low'], 3)} to {number(values.get('dice_high'), 3)})"
    return f"{of} Dice {number(values['dice'], 3)}{bounds}: " + ", ".join(each)


def _progress(event: Mapping[str, Any]) -> str:
    return f"step {event.get('step')} of {event.get('total')}, {duration(event.get('eta_s'))} left"


_SPEAKERS = {
    "started": _started,
    "stage": _stage,
    "metrics": _metrics,
    "progress": _progress,
    "checkpoint": lambda event: f"checkpoint of step {event.get('step')} written",
    "warning": lambda event: f"warning: {event.get('message')}  ({event.get('hint')})",
    "error": lambda event: f"error: {event.get('message')}  ({event.get('hint')})",
    "finished": lambda event: f"{event.get('state')} at step {event.get('step')}",
}
