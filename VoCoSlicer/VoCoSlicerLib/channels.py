"""Which loaded volumes are images of one examination, as their names say: T1, contrast T1, T2, FLAIR."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Endings as BraTS writes them, in the order in which its channels are stacked.
CHANNELS = ("t1", "t1ce", "t2", "flair")
_SAME = {"t1n": "t1", "t1gd": "t1ce", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
_SAME |= {name: name for name in CHANNELS}
_ENDING = re.compile(rf"^(?P<case>.+)[_ -](?P<channel>{'|'.join(_SAME)})$", re.IGNORECASE)


def splitName(name: str) -> tuple[str, str]:
    """(name of the case, channel) of a volume's name; the channel is "" where the name has no known ending."""
    found = _ENDING.fullmatch(name.strip())
    if found is None:
        return name.strip(), ""
    return found["case"], _SAME[found["channel"].lower()]


def groupNames(names: Sequence[str]) -> list[list[int]]:
    """Positions of ``names`` that belong together, channels in the order of CHANNELS; others alone, in their order."""
    groups: dict[tuple[str, str], list[int]] = {}
    for position, name in enumerate(names):
        case, channel = splitName(name)
        taken = groups.get((case, "")) or []
        channels = [splitName(names[other])[1] for other in taken]
        if not channel or channel in channels:
            groups[case, str(position)] = [position]
        else:
            groups[case, ""] = [*taken, position]
    for group in groups.values():
        group.sort(key=lambda position: _rank(names[position]))
    return sorted(groups.values(), key=min)


def channelNames(names: Sequence[str]) -> tuple[str, ...]:
    """What the channels of a case with volumes of these names are called: ("image",) where there is one."""
    if len(names) == 1:
        return ("image",)
    known = [splitName(name)[1] for name in names]
    if all(known) and len(set(known)) == len(known):
        return tuple(known)
    return tuple(f"channel_{number}" for number in range(len(names)))


def differ(channels: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two cases' channels of these names, in order, are known to show different things: T1 here, T2 there."""
    pairs = zip(_kinds(channels), _kinds(others), strict=False)
    return any(one and other and one != other for one, other in pairs)


def caseName(names: Iterable[str]) -> str:
    """What a case with volumes of these names is called."""
    names = list(names)
    return splitName(names[0])[0] if len(names) > 1 else names[0].strip()


def _kinds(channels: Iterable[str]) -> list[str]:
    return [_SAME.get(name.strip().casefold(), "") for name in channels]


def _rank(name: str) -> int:
    channel = splitName(name)[1]
    return CHANNELS.index(channel) if channel else -1
