"""The crop of the pictures: over four base crops, with another share of each."""

from __future__ import annotations


def showMovedCrop(hand, preview, volume) -> None:
    """Show ``preview`` of ``volume`` by the controls under ``hand``, and move its crop."""
    hand.choose("setting.preset", "tiny")
    hand.pick("volumeSelector", volume)
    hand.check("onCheckBox")
    hand.until(lambda: preview.ready and preview.shown, what="the preview")
    x, y, z = preview.world.centres[5:11:5].mean(0)
    preview.roiNode.SetCenterWorld(x + 14, y - 9, z)  # else all four cells have the same share
    hand.settle()
