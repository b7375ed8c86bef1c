"""Forms made of the settings' own descriptions: what is shown, typed, wrong, and taken back."""

from __future__ import annotations

import sys

import pytest
import slicer
from hand import Hand

from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.presets import resolve_pretrain
from VoCoCore.settings import PretrainSettings


@pytest.fixture
def window(host):
    import qt

    made = qt.QWidget()
    made.setLayout(qt.QVBoxLayout())
    made.show()
    yield made
    made.close()


def form(window, names, settings=PretrainSettings, title=""):
    from VoCoSlicerLib.forms import SettingsForm

    said = []
    made = SettingsForm(window, settings, {title: names}, lambda: said.append(1))
    slicer.app.processEvents()  # what is put into a window that is shown appears with the next events
    return made, said


def test_every_setting_of_both_jobs_has_a_control_with_help_and_range(host, window):
    from VoCoSlicerLib.forms import labelOf, tooltipOf

    for settings in (PretrainSettings, FinetuneSettings):
        options = {option.name: option for option in settings.options()}
        made, _ = form(window, options, settings)
        assert made.rows.keys() == options.keys() and len(options) > 50
        for name, option in options.items():
            tip = made.rows[name].editor.toolTip
            assert option.facts["help"] in tip and name in tip
        counts = options["crops.counts" if settings is PretrainSettings else "patches.size"]
        assert f"from {counts.facts['low']} to {counts.facts['high']}" in tooltipOf(counts)
        assert labelOf(options["prepare.spacing"]) == "Spacing [mm]"


def test_only_what_is_changed_by_hand_is_a_value(host, window):
    hand = Hand(window, host)
    made, said = form(window, ("recipe", "crops.counts", "model.checkpointing", "optim.lr"))
    assert made.values() == {} and said == []
    hand.type("setting.crops.counts", "3, 3,1")
    hand.choose("setting.recipe", "v2")
    hand.choose("setting.model.checkpointing", "true")
    assert made.values() == {"recipe": "v2", "crops.counts": (3, 3, 1), "model.checkpointing": True}
    assert resolve_pretrain(made.values()).crops.counts == (3, 3, 1)
    hand.type("setting.crops.counts", "")
    assert "crops.counts" not in made.values() and len(said) >= 4
    hand.find("setting.crops.counts").setText("2, 2, 1")
    assert made.values()["crops.counts"] == (2, 2, 1), "a script set it: what is shown must be what holds"


def test_a_wrong_value_is_said_beside_its_control(host, window):
    hand = Hand(window, host)
    made, _ = form(window, ("crops.counts", "optim.lr", "run.seed"))
    hand.type("setting.crops.counts", "4,4")
    note = hand.find("note.crops.counts")
    assert note.isVisible() and "needs 3 numbers" in note.text and made.values() == {}
    assert "for example" in note.text  # the hint
    hand.type("setting.optim.lr", "fast")
    assert set(made.errors()) == {"crops.counts", "optim.lr"}
    hand.type("setting.crops.counts", "4,4,99")
    assert "from 1 to 16" in note.text
    made.setValues({})  # what is being typed is not taken away
    assert hand.find("setting.crops.counts").text == "4,4,99"
    hand.type("setting.crops.counts", "4,4,2")
    assert not note.isVisible() and made.values() == {"crops.counts": (4, 4, 2)}


def test_values_that_do_not_fit_together_are_said_beside_those_they_name(host, window):
    from VoCoCore.errors import SettingsError

    hand = Hand(window, host)
    made, _ = form(window, ("crops.random_size", "crops.volume_size", "run.seed"))
    with pytest.raises(SettingsError) as caught:
        resolve_pretrain({"crops.random_size": (99, 99, 99), "crops.volume_size": (64, 64, 64)})
    made.showTogether(caught.value)
    shown = [name for name in made.rows if hand.find(f"note.{name}").isVisible()]
    assert shown == ["crops.random_size", "crops.volume_size"]
    made.showTogether(None)
    assert not hand.find("note.crops.random_size").isVisible()


def test_defaults_are_shown_in_grey_and_values_can_be_set_and_reset(host, window):
    hand = Hand(window, host)
    made, said = form(window, ("recipe", "crops.counts", "optim.lr", "data.limit"))
    made.setDefaults(resolve_pretrain({"recipe": "v2"}).flat())
    assert hand.find("setting.crops.counts").placeholderText == "3,3,1"
    assert hand.find("setting.data.limit").placeholderText == "automatic"
    assert hand.find("setting.recipe").itemText(0) == "default: v2"
    made.setValues({"crops.counts": [2, 2, 1], "recipe": "paper", "optim.lr": 1e-3})
    assert (
        hand.find("setting.crops.counts").text == "2,2,1"
        and hand.find("setting.recipe").currentText == "paper"
    )
    made.setDefaults(resolve_pretrain({"recipe": "paper"}).flat())
    assert hand.find("setting.recipe").itemText(0) == "default: v2", "what is chosen is not the default"
    assert said == []  # nobody has changed anything by hand
    assert made.values() == {"crops.counts": (2, 2, 1), "recipe": "paper", "optim.lr": 1e-3}
    made.reset()
    assert made.values() == {} and hand.find("setting.crops.counts").text == "" and said == [1]


def test_values_of_another_version_are_left_aside(host, window):
    made, _ = form(window, ("recipe", "crops.counts"))
    made.setValues({"recipe": "v9", "crops.counts": "many", "unknown": 3})
    assert made.values() == {}


def test_groups_are_boxes_that_can_be_closed(host, window):
    made, _ = form(window, ("optim.lr",), title="Optimiser")
    box = made.boxes["Optimiser"]
    assert box.title == "Optimiser" and made.rows["optim.lr"].editor.isVisible()
    made.closeBoxes()
    assert not made.rows["optim.lr"].editor.isVisible()
    assert sys.modules.get("torch") is None
