"""Settings, options and settings files that cannot be meant, through the command line: one line each, exit code 2."""

from __future__ import annotations

import json

import pytest
from faults import meet

from VoCoCore.presets import resolve_pretrain

TRAIN = ["pretrain", "--data", "no-such-folder", "--run"]
TINY = ["--preset", "tiny", "--encoder", "unet", "--workers", "0"]

pytestmark = pytest.mark.usefixtures("own_config")

OPTIONS = [
    ("a number too large for a float", ["--steps", "1e400"], ["whole number", "optim.steps"]),
    ("hexadecimal digits", ["--steps", "0x10"], ["whole number", "optim.steps"]),
    ("a fraction where a count is due", ["--batch", "2.5"], ["whole number", "optim.batch"]),
    ("steps below one", ["--steps", "-3"], ["at least 1", "optim.steps"]),
    ("steps beyond reason", ["--steps", "1e308"], ["10", "optim.steps"]),
    ("thousands of digits", ["--steps", "9" * 5000], ["whole number", "optim.steps"]),
    ("nothing as a number", ["--steps", ""], ["whole number", "optim.steps"]),
    ("an option without its value", ["--steps"], ["expected one argument", "--steps"]),
    ("not a number as a rate", ["--optim.lr", "nan"], ["a number", "optim.lr"]),
    ("an infinite rate", ["--optim.lr", "inf"], ["a number", "optim.lr"]),
    ("a rate below zero", ["--optim.lr", "-1"], ["from 0", "optim.lr"]),
    ("warm-up as long as the job", ["--steps", "5", "--optim.warmup", "5"], ["leaves none", "optim.warmup"]),
    ("a batch beyond reason", ["--batch", "100000"], ["from 1 to 4096", "optim.batch"]),
    ("no base crops", ["--crops.counts", "0,2,1"], ["from 1 to 16", "crops.counts"]),
    ("a billion base crops", ["--crops.counts", "1e9,1,1"], ["from 1 to 16", "crops.counts"]),
    ("a value too many", ["--crops.counts", "2,2,1,1"], ["3 numbers", "crops.counts"]),
    ("a count below zero, in a list", ["--crops.counts", "-2,2,1"], ["from 1 to 16", "crops.counts"]),
    ("letters among the counts", ["--crops.counts", "a,b,c"], ["whole number", "crops.counts"]),
    ("a grid finer than the volume", ["--crops.volume_size", "2,2,1"], ["does not fit", "crops.counts"]),
    ("a random crop beyond the volume", ["--crops.random_size", "500,9,9"], ["larger", "crops.random_size"]),
    ("an input no encoder takes", ["--crops.input_size", "33,33,33"], ["multiples", "crops.input_size"]),
    ("a volume nobody can hold", ["--crops.volume_size", "9999,9999,9999"], ["voxels", "crops.volume_size"]),
    ("a feature size too small", ["--model.feature_size", "3"], ["from 4", "model.feature_size"]),
    ("a projector too narrow", ["--model.projector_width", "4"], ["from 8", "model.projector_width"]),
    ("a window that falls", ["--prepare.window", "250,-175"], ["must rise", "prepare.window"]),
    ("half a window", ["--prepare.window", "1"], ["2 numbers", "prepare.window"]),
    ("percentiles that do not rise", ["--prepare.percentiles", "50,50"], ["rise", "prepare.percentiles"]),
    ("voxels without size", ["--prepare.spacing", "0,1,1"], ["from 0.05", "prepare.spacing"]),
    ("a seed below zero", ["--seed", "-1"], ["at least 0", "run.seed"]),
    ("a seed too large", ["--seed", str(2**63)], ["from 0", "run.seed"]),
    ("neither true nor false", ["--optim.amsgrad", "maybe"], ["true or false", "optim.amsgrad"]),
    ("an unknown recipe", ["--recipe", "papr"], ["Did you mean 'paper'", "recipe"]),
    ("an unknown preset", ["--preset", "tinny"], ["Did you mean 'tiny'", "preset"]),
    ("an unknown encoder", ["--encoder", "unett"], ["Did you mean 'unet'", "model.encoder"]),
    ("an unknown setting", ["--optim.stesp", "3"], ["Did you mean '--optim.steps'", "--optim.stesp"]),
    ("a word too many", ["surplus"], ["unknown argument", "surplus"]),
    ("more held out than there is", ["--data.val_fraction", "0.95"], ["0.9", "data.val_fraction"]),
    ("workers below zero", ["--workers", "-1"], ["from 0", "data.workers"]),
    ("a character 0", ["--store", "a\0b"], ["character 0", "argument"]),
]


@pytest.mark.parametrize(("kind", "words", "says"), OPTIONS, ids=[kind for kind, _, _ in OPTIONS])
def test_an_option(kind, words, says, capsys, tmp_path):
    line = meet(capsys, kind, 2, [*TRAIN, tmp_path / "run", *TINY, *words], says)
    assert len(line) < 400
    assert not (tmp_path / "run").exists(), "a mistake in the settings leaves nothing behind"


def test_what_is_unusual_but_clear_is_taken():
    made = resolve_pretrain({}, {"preset": "tiny", "optim.steps": " 3 ", "optim.batch": "2.0"})
    assert (made.optim.steps, made.optim.batch) == (3, 2)
    assert resolve_pretrain({}, {"crops.counts": "4x4x1"}).crops.counts == (4, 4, 1)
    assert resolve_pretrain({}, {"optim.amsgrad": " YES "}).optim.amsgrad is True


def test_a_whole_number_keeps_all_its_digits():
    for given in (2**63 - 1, str(2**63 - 1), 2**53 + 1):
        assert resolve_pretrain({}, {"preset": "tiny", "run.seed": given}).run.seed == int(given)


def test_values_below_zero_need_no_equals_sign(tmp_path, capsys):
    words = [*TRAIN, tmp_path / "run", *TINY, "--steps", "9", "--prepare.window", "-175,250"]
    meet(capsys, "data that are not there", 3, words, ["is not there", "no-such-folder"])


FILES = [
    ("a settings file that is not UTF-8", "c.yaml", "pr\u00e9set: tiny".encode("latin-1"), ["UTF-8"]),
    ("a settings file of bytes", "c.yaml", bytes(range(256)), ["UTF-8"]),
    ("broken YAML", "c.yaml", b"preset: [tiny", ["neither YAML nor JSON"]),
    ("broken JSON", "c.json", b'{"preset":', ["neither YAML nor JSON"]),
    ("an empty JSON file", "c.json", b"", ["neither YAML nor JSON"]),
    ("a settings file that is a list", "c.yaml", b"[1, 2]", ["names and values"]),
    ("a setting given twice in YAML", "c.yaml", b"preset: tiny\npreset: base", ["preset twice"]),
    ("a setting given twice in JSON", "c.json", b'{"preset": "tiny", "preset": "base"}', ["preset twice"]),
    ("a setting nested and dotted", "c.yaml", b"optim: {steps: 3}\noptim.steps: 4", ["optim.steps twice"]),
    ("a settings file that holds itself", "c.yaml", b"a: &a\n  b: *a\n", ["holds itself"]),
    ("a settings file nested too deeply", "c.json", b"[" * 100_000, ["too deeply"]),
    ("code in a settings file", "c.yaml", b"a: !!python/object/apply:os.getcwd []", ["neither YAML"]),
]


@pytest.mark.parametrize(("kind", "name", "content", "says"), FILES, ids=[file[0] for file in FILES])
def test_a_settings_file(kind, name, content, says, capsys, tmp_path):
    (tmp_path / name).write_bytes(content)
    words = [*TRAIN, tmp_path / "run", "--config", tmp_path / name]
    meet(capsys, kind, 2, words, [*says, name])


VALUES = [
    ("an unknown name in a settings file", {"optim": {"stesp": 3}}, ["Did you mean", "optim.stesp"]),
    ("a group that is null", {"optim": None}, ["no setting", "optim"]),
    ("null where a value is due", {"optim": {"steps": None}}, ["needs a value", "optim.steps"]),
    ("a value of the wrong kind", {"data": {"source": 5}}, ["needs text", "data.source"]),
    ("names where numbers are due", {"crops": {"counts": {"x": 1}}}, ["no setting", "crops.counts.x"]),
    ("null among numbers", {"crops": {"counts": [1, None, 2]}}, ["whole number", "crops.counts"]),
    ("true as a number", {"optim": {"steps": True}}, ["whole number", "optim.steps"]),
    ("a character 0 in a name", {"data": {"store": "a\0b"}}, ["needs text", "data.store"]),
]


@pytest.mark.parametrize(("kind", "content", "says"), VALUES, ids=[value[0] for value in VALUES])
def test_a_value_in_a_settings_file(kind, content, says, capsys, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(content))
    meet(capsys, kind, 2, ["pretrain", "--run", tmp_path / "run", "--config", tmp_path / "c.json"], says)


def test_a_bomb_of_aliases_is_not_unfolded(capsys, tmp_path):
    lines = ["a0: &a0 {" + ", ".join(f"k{n}: 1" for n in range(9)) + "}"]
    for level in range(1, 10):
        lines.append(f"a{level}: &a{level} {{" + ", ".join(f"k{n}: *a{level - 1}" for n in range(9)) + "}")
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    words = ["pretrain", "--run", tmp_path / "run", "--config", tmp_path / "bomb.yaml"]
    meet(capsys, "a settings file of billions of names", 2, words, ["no setting", "a0.k0"])


def test_a_settings_file_that_cannot_be_opened(capsys, tmp_path):
    for kind, path in (
        ("a settings file that is a folder", tmp_path),
        ("a settings file that is gone", tmp_path / "gone.yaml"),
        ("a settings file without a name", ""),
        ("a settings file with a name too long", "x" * 5000),
    ):
        words = ["pretrain", "--run", tmp_path / "run", "--config", path]
        meet(capsys, kind, 2, words, ["cannot read the settings file"])


CHECKS = [
    ("a share that is no number", ["index", "-o", "i.json", "--val", "nan"], ["val=nan"]),
    ("a share above one", ["index", "-o", "i.json", "--val", "2"], ["val=2"]),
    ("shares that leave nothing", ["index", "-o", "i.json", "--val", "0.5", "--test", "0.5"], ["test=0.5"]),
    ("one fold", ["index", "-o", "i.json", "--folds", "1"], ["folds=1"]),
    ("a division's seed below zero", ["index", "-o", "i.json", "--val", "0.5", "--seed", "-1"], ["seed"]),
    (
        "an expression that is none",
        ["index", "-o", "i.json", "--patient", "("],
        ["regular expression", "'('"],
    ),
    ("a volume that is no number", ["index", "-o", "i.json", "--volumes", "\u00b2"], ["volumes"]),
    ("a column without a name", ["index", "-o", "i.json", "--column", "image"], ["--column"]),
    ("an unknown body part", ["index", "-o", "i.json", "--body-part", "foot"], ["--body-part"]),
    ("checking with less than no worker", ["check", "--workers", "-1"], ["data.workers"]),
    ("checking without a grid", ["check", "--counts", "0,1,1"], ["crops.counts"]),
    ("a sheet that is no picture", ["prepare", "--sheet", "sheet.nii.gz"], [".png", "--sheet"]),
]


@pytest.mark.parametrize(("kind", "words", "says"), CHECKS, ids=[check[0] for check in CHECKS])
def test_an_option_of_the_data_commands(kind, words, says, small_cohort, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meet(capsys, kind, 2, ["data", words[0], small_cohort.source, *words[1:]], says)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sample", ["-1", "9" * 30])
def test_a_sample_that_there_cannot_be(sample, small_cohort, capsys, tmp_path):
    words = ["crops", small_cohort.source, "-o", tmp_path / "x.png", "--sample", sample]
    meet(capsys, "a sample number out of range", 2, words, ["--sample"])


def test_a_picture_of_crops_of_another_kind(small_cohort, capsys, tmp_path):
    words = ["crops", small_cohort.source, "-o", tmp_path / "x.jpg"]
    meet(capsys, "a picture of another kind", 2, words, [".png or .html", "x.jpg"])
