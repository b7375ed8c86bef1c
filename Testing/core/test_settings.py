"""Settings: presets and recipes share no key, everything resolves, and every mistake names itself."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from VoCoCore.cli import finetune, pretrain
from VoCoCore.errors import SettingsError
from VoCoCore.presets import PRESETS, RECIPES, resolve_pretrain
from VoCoCore.protocols import resolve_finetune
from VoCoCore.settings import ENCODER_LIMITS, PretrainSettings

ALL = [(r, p, e) for r in RECIPES for p in PRESETS for e in ENCODER_LIMITS]


def test_no_key_belongs_to_two_tables():
    recipe_keys = set().union(*RECIPES.values())
    preset_keys = set().union(*PRESETS.values())
    assert not recipe_keys & preset_keys
    assert all(set(keys) == recipe_keys for keys in RECIPES.values()), (
        "each recipe must state every one of its keys"
    )
    assert all(set(keys) == preset_keys for keys in PRESETS.values())


@pytest.mark.parametrize(("recipe", "preset", "encoder"), ALL)
def test_every_combination_resolves_and_survives_json(recipe, preset, encoder):
    made = resolve_pretrain({}, {"recipe": recipe, "preset": preset, "model.encoder": encoder})
    again = PretrainSettings.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made
    assert resolve_pretrain(made.flat()) == made, "settings.json must reproduce the run"


def test_base_has_the_published_sizes():
    v1 = resolve_pretrain({}, {"recipe": "v1", "preset": "base"})
    assert v1.crops.volume_size == (384, 384, 96) and v1.crops.base_size == (96, 96, 96)
    assert v1.crops.input_size == (64, 64, 64) and v1.crops.random_crops == 2 and v1.crops.counts == (4, 4, 1)
    assert (v1.optim.steps, v1.optim.warmup, v1.optim.lr, v1.optim.amsgrad) == (250_000, 5000, 1e-4, True)
    assert (v1.model.feature_size, v1.model.projector_width, v1.pretext.momentum) == (48, 2048, 0.9)
    v2 = resolve_pretrain({}, {"recipe": "v2", "preset": "base"})
    assert v2.crops.volume_size == (192, 192, 64) and v2.crops.input_size == (64, 64, 64)
    assert v2.crops.counts == (3, 3, 1) and v2.model.projector_width == 1024 and v2.pretext.drop_crops == 0.2


def test_only_the_recipe_whose_loss_is_steep_clips_its_gradient():
    """Without it small pre-trainings of `paper` collapsed; the published code of the others clips nothing."""
    clips = {recipe: resolve_pretrain({}, {"recipe": recipe}).optim.clip for recipe in ("paper", "v1", "v2")}
    assert clips == {"paper": 1.0, "v1": None, "v2": None}
    assert resolve_pretrain({}, {"recipe": "paper", "optim.clip": "none"}).optim.clip is None


def test_command_line_goes_before_config_before_preset():
    config = {"preset": "tiny", "optim.steps": 7, "optim.lr": 0.5}
    made = resolve_pretrain(config, {"optim.lr": "0.25"})
    assert (made.preset, made.optim.steps, made.optim.lr, made.model.feature_size) == ("tiny", 7, 0.25, 12)


@pytest.mark.parametrize("counts", ["2,2,1", "3x3x1", "5,5,1", "3,3,2", "4,4,2"])
def test_table_7_is_one_option(counts):
    crops = resolve_pretrain({}, {"preset": "tiny", "crops.counts": counts}).crops
    assert crops.volume_size == tuple(32 * n for n in crops.counts) and crops.base_size == (32, 32, 32)


def test_a_volume_size_of_ones_own_sets_the_bases():
    crops = resolve_pretrain({}, {"preset": "tiny", "crops.volume_size": "100,80,30"}).crops
    assert crops.base_size == (25, 20, 30) and crops.random_size == (25, 20, 30)


@pytest.mark.parametrize(
    ("given_values", "words"),
    [
        ({"crops.count": "4,4,1"}, "Did you mean 'crops.counts'"),
        ({"recipe": "v3"}, "one of paper, v1, v2"),
        ({"model.encoder": "unett"}, "Did you mean 'unet'"),
        ({"optim.steps": -5}, "optim.steps must be at least 1"),
        ({"optim.steps": 2.5}, "whole number"),
        ({"optim.steps": True}, "whole number"),
        ({"optim.lr": "fast"}, "optim.lr needs a number"),
        ({"optim.lr": float("nan")}, "optim.lr needs a number"),
        ({"crops.counts": "4,4"}, "needs 3 numbers"),
        ({"crops.counts": {"x": 4}}, "needs 3 numbers"),
        ({"data.skip_bad": "maybe"}, "true or false"),
        ({"crops.input_size": "48,48,48"}, "multiples of 32"),
        ({"crops.volume_size": "4,4,4", "crops.counts": "5,5,1"}, "does not fit"),
        ({"preset": "tiny", "crops.random_size": "500,32,32"}, "larger than"),
        ({"model.encoder": "swin_unetr", "model.feature_size": 16}, "multiple of 12"),
        ({"recipe": "paper", "pretext.both_directions": True}, "need a teacher"),
        ({"optim.warmup": 10, "optim.steps": 10}, "leaves none"),
        ({"prepare.window": "250,-175"}, "must rise"),
        ({"prepare.percentiles": "1,101"}, "from 0 to 100"),
    ],
)
def test_a_mistake_says_what_where_and_how_to_mend_it(given_values, words):
    with pytest.raises(SettingsError) as caught:
        resolve_pretrain({}, given_values)
    assert words in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2


@given(
    st.dictionaries(
        st.sampled_from([o.name for o in PretrainSettings.options()]), st.text(max_size=6), max_size=4
    )
)
def test_any_text_is_taken_or_refused_in_one_line(values):
    try:
        resolve_pretrain({}, values)
    except SettingsError as error:
        assert "\n" not in str(error)


def test_every_setting_describes_itself():
    for option in PretrainSettings.options():
        assert option.facts["help"] and option.check(option.default) == option.default


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PretrainSettings().recipe = "paper"


def test_settings_load_without_torch():
    code = (
        "import sys, VoCoCore.presets, VoCoCore.data.sampling; print({'torch', 'monai'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("command", "resolved"),
    [(pretrain, resolve_pretrain()), (finetune, resolve_finetune())],
    ids=["pre", "fine"],
)
def test_the_help_tells_of_each_setting_what_holds_where_nobody_gives_it(command, resolved):
    said = " ".join(command.parser().format_help().split())
    values, told = resolved.flat(), 0
    for option in resolved.options():
        value, words = values[option.name], option.facts["help"]
        if value in (None, "") or "default" in words or option.name == "prepare.fit":
            continue
        unit = f" [{option.facts['unit']}]" if option.facts["unit"] else ""
        shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        found = re.search(re.escape(f"{words}{unit}") + r" \(([^)]+)\)", said)
        assert found, option.name
        by_others = found[1] in ("by the recipe", "by the preset", "by the preset and the recipe")
        if by_others:
            by_recipe = [resolve_pretrain({}, {"recipe": each}).flat()[option.name] for each in RECIPES]
            by_preset = {str(table.get(option.name)) for table in PRESETS.values()}
            assert ("recipe" in found[1]) == (len(set(map(str, by_recipe))) > 1), option.name
            assert ("preset" in found[1]) == (len(by_preset) > 1), option.name
        same = option.check(found[1]) == option.check(shown) if not by_others else command is pretrain
        assert same, f"{option.name} is {shown}, and the help says {found[1]}"
        told += not by_others
    assert told > 20
