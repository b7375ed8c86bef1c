"""The height of the module in Slicer's panel follows its texts, also after the module was left and opened again."""

from __future__ import annotations

from grounds import MODULE

TEXT = "One sentence that needs more lines the narrower its panel is. " * 3


def test_the_panel_follows_texts_after_the_module_was_left_and_opened_again(host):
    import qt

    def settle():
        for _ in range(5):
            host.app.processEvents()

    voco = host.loadModule(MODULE)
    window, around, widget = qt.QWidget(), qt.QVBoxLayout(), voco.parent
    window.setLayout(around)
    around.addStretch(1)
    window.resize(400, 900)
    window.show()
    kept = []
    for _ in range(2):
        around.insertWidget(0, widget)
        widget.setVisible(True)
        settle()
        if not kept:  # left as by Slicer's panel, which takes the item out and never deletes it
            kept.append(around.takeAt(0))
            widget.setVisible(False)
            widget.setParent(None)
    before = widget.rect.height()
    voco.say(TEXT * 5)
    settle()
    wanted = widget.layout().totalHeightForWidth(widget.rect.width())
    assert before < wanted <= widget.rect.height()
    voco.say("")
    settle()
    assert widget.rect.height() == before
    around.removeWidget(widget)
    widget.setParent(None)
    voco.cleanup()
