"""Errors and warnings can be read on a light and on a dark style, also after the style was changed."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from hand import Hand
from made_jobs import runKnown


def contrast(one: str, other: str) -> float:
    """Ratio of two colours' luminances, 1 to 21, as the Web Content Accessibility Guidelines define it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def colours(voco) -> dict[str, str]:
    """The colour of each label that has one of its own, by name."""
    import slicer

    found = {}
    for section in ("volumes", "cropPreview", "pretraining", "finetuning", "prediction"):
        for label in slicer.util.findChildren(voco.panel(section).widget, className="QLabel"):
            if "color: #" in label.styleSheet:
                found[f"{section}.{label.objectName}"] = label.styleSheet.split("color: ")[1][:7]
    return found


@contextmanager
def style(host, ground):
    """Slicer's style with windows of that colour, and the module entered."""
    import qt
    import slicer

    usual = qt.QApplication.palette()
    try:
        slicer.app.setPalette(qt.QPalette(qt.QColor(ground)))
        slicer.app.processEvents()
        host.exit("VoCoSlicer")
        host.enter("VoCoSlicer")
        yield
    finally:
        slicer.app.setPalette(usual)


def test_words_of_warnings_stand_out_on_every_style(host, voco):
    seen = set(colours(voco).values())
    for ground in ("#323232", "#efefef"):
        with style(host, ground):
            found = colours(voco)
        seen |= set(found.values())
        for name, colour in found.items():
            assert contrast(colour, ground) > 4.5, (name, colour, ground)
    assert len(seen) == 4


@pytest.mark.parametrize("ground", ["#323232", "#efefef"])
def test_states_of_jobs_stand_out_on_every_style(host, voco, tmp_path, ground):
    runKnown(tmp_path, "one", "failed")
    hand = Hand(voco.parent, host)
    hand.open("jobsSection")
    with style(host, ground):
        hand.until(lambda: hand.rows("runsTable"), what="the run")
        colour = hand.find("runsTable").item(0, 2).foreground().color().name()
    assert contrast(colour, ground) > 4.5
