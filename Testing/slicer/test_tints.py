"""Errors and warnings can be read on a light and on a dark style, also after the style was changed."""

from __future__ import annotations


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


def test_words_of_warnings_stand_out_on_every_style(host, voco):
    import qt
    import slicer

    usual, seen = qt.QApplication.palette(), set(colours(voco).values())
    try:
        for ground in ("#323232", "#efefef"):
            slicer.app.setPalette(qt.QPalette(qt.QColor(ground)))
            slicer.app.processEvents()
            host.exit("VoCoSlicer")
            host.enter("VoCoSlicer")
            for name, colour in colours(voco).items():
                assert contrast(colour, ground) > 4.5, (name, colour, ground)
                seen.add(colour)
    finally:
        slicer.app.setPalette(usual)
    assert len(seen) == 4
