"""`voco pretrain --estimate` and `voco finetune --estimate`: figures of the job that would run, and nothing started."""

from __future__ import annotations

import json

import pytest
import torch
from made_cohorts import SMALL_FINETUNE

from VoCoCore.cli import main
from VoCoCore.data.cases import load_index
from VoCoCore.devices import choose
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.networks import SegmentationNetwork
from VoCoCore.presets import resolve_pretrain
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.events import read_events
from VoCoCore.training import memory, needs
from VoCoCore.training.estimate import estimate

pytestmark = pytest.mark.usefixtures("own_config")
MB = 2**20


@pytest.fixture
def words(labelled_cohort, tmp_path):
    """Words of a small fine-tuning; None among the changes leaves a setting open."""

    def make(*more, **changes):
        named = {name.replace("__", "."): value for name, value in changes.items()}
        values = {**SMALL_FINETUNE, "data.source": labelled_cohort.source, **named}
        options = [str(word) for n, v in values.items() if v is not None for word in (f"--{n}", v)]
        places = ["--run", str(tmp_path / "run"), "--data.store", str(tmp_path / "store")]
        return ["finetune", *places, *options, *more]

    return make


def figures(capsys, words):
    assert main([*words, "--estimate", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_fine_tunings_figures_are_those_of_its_network_and_nothing_is_written(words, capsys, tmp_path):
    found = figures(capsys, words(optim__ema=0.0))
    assert not (tmp_path / "run").exists() and not (tmp_path / "store").exists()
    # Three organs and the background: counted from the list that the cohort brings.
    index = tmp_path / "index.json"
    main(["data", "index", words()[words().index("--data.source") + 1], "-o", str(index)])
    capsys.readouterr()
    encoder = build_encoder("unet", 1, 4, (32, 32, 32), False)
    classes = len({0, *(load_index(index).labels or {}).values()})
    network = SegmentationNetwork(encoder, classes, deep=False)
    count = sum(p.numel() for p in network.parameters())
    assert found["parameters"] == pytest.approx(count, rel=0.02)
    assert found["weights_mb"] == pytest.approx(16 * found["parameters"] / MB, abs=0.01)
    assert found["checkpoints_mb"] == pytest.approx(48 * found["parameters"] / MB, abs=0.01)
    assert found["crops"] == 2 and found["steps"] == 6 and found["cases"] == 6 and found["runs"] == 1
    # Two crops of 32^3 voxels, four features wide, are at least there forward and backward.
    assert found["activations_mb"] > 2 * 2 * 4 * 4 * 32**3 / MB
    assert found["seconds"] == pytest.approx(6 * found["step_s"], rel=0.01)
    assert found["device"] in ("cpu", "cuda", "mps") and found["room_mb"] > 0 and found["lacking"] == []


def test_the_estimate_says_what_the_job_then_does(words, capsys, tmp_path):
    asked = words(patches__size=None, patches__per_case=None, prepare__spacing=None, optim__steps=2)
    found = figures(capsys, asked)
    assert any(line.startswith("patches.size") for line in found["plan"])
    assert main(asked) == 0
    capsys.readouterr()
    events = list(read_events(RunDirectory(tmp_path / "run").events_file))
    told = [event["text"] for event in events if event.get("name") == "plan"]
    # Up to the reason, in which the memory that is free stands.
    assert [line.split(":")[0] for line in found["plan"]] == [line.split(":")[0] for line in told]
    (said,) = [event["text"] for event in events if event.get("name") == "estimate"]
    assert said.startswith(f"{found['parameters'] / 1e6:.1f} M parameters, {found['crops']} crops of")
    kept = sum(f.stat().st_size for f in (tmp_path / "run" / "checkpoints").rglob("*") if f.is_file())
    assert found["checkpoints_mb"] * MB / needs.KEPT == pytest.approx(kept / _checkpoints(tmp_path), rel=0.25)


def _checkpoints(tmp_path):
    return len([f for f in (tmp_path / "run" / "checkpoints").iterdir() if f.is_dir() or f.suffix])


def test_the_disk_has_room_for_all_checkpoints_that_lie_there_at_one_time(
    words, capsys, tmp_path, monkeypatch
):
    from VoCoCore.training import checkpoint

    sizes, write = [], checkpoint._write_manifest

    def measured(folder, step, best):
        write(folder, step, best)
        sizes.append(sum(file.stat().st_size for file in folder.parent.rglob("*") if file.is_file()))

    monkeypatch.setattr(checkpoint, "_write_manifest", measured)
    monkeypatch.setattr("VoCoCore.training.finetune.best_of", lambda *_: 0.5)  # the first look is the best
    asked = words(optim__amsgrad="true", run__validate_every=1, run__checkpoint_every=1)
    found = figures(capsys, asked)
    assert main(asked) == 0
    assert max(sizes) == pytest.approx(found["checkpoints_mb"] * MB, rel=0.1)
    assert found["weights_mb"] == pytest.approx(20 * found["parameters"] / MB, abs=0.01)


def test_all_folds_take_the_time_of_each_and_prepare_the_cases_once(words, capsys):
    one = figures(capsys, words(data__fold="0", data__folds=3))
    all_folds = figures(capsys, words(data__fold="all", data__folds=3))
    assert all_folds["runs"] == 3 and all_folds["cases"] == one["cases"]
    assert all_folds["checkpoints_mb"] == pytest.approx(3 * one["checkpoints_mb"], abs=0.02)
    assert all_folds["volume_mb"] == one["volume_mb"]
    assert main([*words(data__fold="all", data__folds=3), "--estimate"]) == 0
    assert "each of 3 folds: " in capsys.readouterr().out


def test_prepared_cases_are_counted_at_the_voxel_size_of_the_job(words, capsys):
    coarse = figures(capsys, words(prepare__spacing="8,8,10"))
    fine = figures(capsys, words(prepare__spacing="4,4,5"))
    assert fine["volume_mb"] / coarse["volume_mb"] == pytest.approx(8, rel=0.15)
    assert fine["disk_mb"] == pytest.approx(fine["checkpoints_mb"] + 6 * fine["volume_mb"], abs=0.05)


def test_a_machine_that_is_too_small_is_said_with_what_to_change(words, capsys, monkeypatch):
    import shutil

    monkeypatch.setattr(memory, "room_mb", lambda machine: 1.0)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    lacking = figures(capsys, words())["lacking"]
    assert [each["message"].split(":")[0] for each in lacking] == [
        "this job may run out of memory",
        "the disk is too small",
    ]
    assert "patches.per_case" in lacking[0]["hint"] and "larger disk" in lacking[1]["hint"]
    assert main([*words(), "--estimate"]) == 0
    assert "warning: this job may run out of memory" in capsys.readouterr().out


def test_a_pre_trainings_figures_count_the_channels_and_cases_of_its_data(small_cohort, capsys, tmp_path):
    tiny = ["pretrain", "--run", str(tmp_path / "r"), "--preset", "tiny", "--encoder", "unet"]
    tiny += ["--model.feature_size", "4", "--steps", "7", "--run.threads", "1"]
    bare, known = figures(capsys, tiny), figures(capsys, [*tiny, "--data", str(small_cohort.source)])
    assert bare["cases"] is None and known["cases"] == 6 and bare["volume_mb"] == known["volume_mb"]
    assert bare["disk_mb"] == bare["checkpoints_mb"]
    assert known["disk_mb"] == pytest.approx(bare["disk_mb"] + 6 * known["volume_mb"], abs=0.05)
    assert bare["steps"] == 7 and bare["plan"] == [] and not (tmp_path / "r").exists()
    index = json.loads(_index_of(small_cohort, tmp_path, capsys).read_text())
    for case in index["cases"]:
        case["images"] *= 2
    two = tmp_path / "two.json"
    two.write_text(json.dumps({**index, "channels": ["t1", "t2"]}))
    both = figures(capsys, [*tiny, "--data", str(two)])
    assert both["volume_mb"] == pytest.approx(2 * known["volume_mb"])
    assert both["parameters"] > known["parameters"]


def _index_of(cohort, tmp_path, capsys):
    assert main(["data", "index", str(cohort.source), "-o", str(tmp_path / "one.json")]) == 0
    capsys.readouterr()
    return tmp_path / "one.json"


def activations_mb(encoder, size):
    """Of a pre-training on the processor, per crop."""
    options = {"preset": "tiny", "model.encoder": encoder, "model.feature_size": size, "run.device": "cpu"}
    settings = resolve_pretrain({}, {**options, "run.threads": 1, "run.precision": "fp32"})
    found = estimate(settings, choose(settings.run))
    return found.activations_mb / found.crops, settings.crops.input_size


def test_activations_are_those_of_the_jobs_own_width(monkeypatch):
    """Counted without values, they are what a real pass holds; a window's attention does not grow with the width."""
    # Steps of a Swin-UNETR take long.
    monkeypatch.setattr("VoCoCore.training.estimate._seconds", lambda *_: 1.0)
    found, edges = activations_mb("unet", 16)
    network, crop = build_encoder("unet", 1, 16, edges), torch.rand(1, 1, *edges)
    kept = 0

    def keep(tensor):
        nonlocal kept
        kept += tensor.nbytes if tensor.ndim == 5 and tensor.shape[0] == 1 else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(crop)
    assert kept / MB < found < 2.5 * kept / MB
    assert activations_mb("swin_unetr", 24)[0] < 1.8 * activations_mb("swin_unetr", 12)[0]


def test_activations_are_not_hidden_by_the_gradients_of_a_network_that_is_large_for_its_crops(monkeypatch):
    """Of a UNETR whose last map alone is asked for, at least each of its twelve layers' input is kept."""
    monkeypatch.setattr("VoCoCore.training.estimate._seconds", lambda *_: 1.0)
    found, edges = activations_mb("unetr", 48)
    assert found > 12 * 4 * (edges[0] // 16) * (edges[1] // 16) * (edges[2] // 16) * 16 * 48 / MB


def test_words_that_do_not_go_together_are_refused(words, capsys):
    for more in (["--json"], ["--estimate", "--detach"]):
        assert main(words(*more)) == 2
        assert "--estimate" in capsys.readouterr().err


def test_a_network_that_does_not_fit_is_one_line(words, capsys, monkeypatch):
    def fail(*parts):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("VoCoCore.training.finetune_needs._pass", fail)
    assert main([*words(), "--estimate"]) == 4
    assert "out of memory on the" in capsys.readouterr().err


@pytest.mark.parametrize(("edge", "left"), [(32, 4), (64, 0)])
def test_crops_too_small_for_the_encoder_are_told_by_the_estimate_of_a_pretraining(
    edge, left, tmp_path, capsys
):
    options = {"preset": "tiny", "encoder": "unet", "crops.input_size": f"{edge},{edge},16"}
    words = [
        "pretrain",
        "--run",
        str(tmp_path / "run"),
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    warnings = figures(capsys, words)["warnings"]
    assert main([*words, "--estimate"]) == 0
    said = capsys.readouterr().out
    assert len(warnings) == bool(left) and ("warning: crops of" in said) == bool(left)
    for each in warnings:
        assert (
            f"crops of {edge} x {edge} x 16 voxels leave {left} in the lowest map of unet" in each["message"]
        )
        assert f"warning: {each['message']}  ({each['hint']})" in said
