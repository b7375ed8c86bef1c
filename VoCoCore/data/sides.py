"""Whether the names of labels tell left from right: then a mirrored body has wrong labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

# Words that begin so, and whole words and letters: English, German, French, Italian, Spanish, Latin.
_BEGINNINGS = re.compile(r"left(?!over)|right|link(e|s)|recht(e|s)|gauche|droit|izquierd|sinistr")
_WORDS = re.compile(r"[lr]t?|destr[aoie]|derech[ao]s?|sinister|dexter|dextr(a|um)")
# What makes one name of the other in a pair such as rkid and lkid, ren_sin and ren_dex, kidneyleft and kidneyright.
_OPPOSITES = (("l", "r"), ("left", "right"), ("sin", "dex"), ("sin", "dx"), ("sx", "dx"))
# Between words: where a capital follows in kidneyLeft, and before the last one of LKidney.
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def sides(names: Sequence[str]) -> str:
    """Why labels called ``names`` have sides, in words; empty where they have none.

    A name says left or right in a word or by a letter alone (Lung_L), or differs in nothing else from another of the
    names (rkid, lkid). Several labels without names may have sides.
    """
    for name in names:
        if any(_BEGINNINGS.match(word) or _WORDS.fullmatch(word) for word in _words(name)):
            return f"'{name}' is a matter of sides"
    if pair := _pair(names):
        return f"'{pair[0]}' and '{pair[1]}' look like two sides"
    if len([name for name in names if re.fullmatch(r"label \d+", name)]) > 1:
        return "labels without names may have sides"
    return ""


def _words(name: str) -> list[str]:
    """The words of a name in small letters; with its digits, so that vertebra L1 is no l, and as French l' is none."""
    return re.findall(r"[^\W_]+['’]?", _CAPITAL.sub(" ", name).lower())


def _pair(names: Sequence[str]) -> tuple[str, str] | None:
    """Two names of which one becomes the other when its side is changed."""
    known = {name.lower(): name for name in names}
    for small, name in known.items():
        other = next((known[changed] for changed in _other_sides(small) if changed in known), None)
        if other is not None:
            return name, other
    return None


def _other_sides(name: str) -> Iterator[str]:
    """What ``name`` becomes when one thing in it that may mean left or right is changed."""
    for one, other in _OPPOSITES:
        for found in re.finditer(one, name):
            yield name[: found.start()] + other + name[found.end() :]
