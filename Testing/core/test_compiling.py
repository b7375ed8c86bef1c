"""run.compile: what is compiled, what is said, and what happens where nothing can compile."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from VoCoCore.devices import Machine
from VoCoCore.errors import EnvironmentFault, StopRequested
from VoCoCore.models.compiling import compile_encoders, is_compiled
from VoCoCore.models.convolutions import FlatConv3d
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.interface import Encoder
from VoCoCore.models.networks import SegmentationNetwork
from VoCoCore.models.placing import placed
from VoCoCore.pretext.build import build_task, encoder_factory
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.training.finetune import finetune
from VoCoCore.training.pretrain import pretrain


def silent(_kind, **_facts):
    """Hear nothing of it."""


HOST = Machine(torch.device("cpu"), "fp32", "")


def test_student_and_teacher_are_compiled_and_keep_torchs_own_convolutions(small_cohort):
    settings = small_cohort.settings("v1")
    task = build_task(settings, encoder_factory(settings, 1))
    compile_encoders(task, silent)
    encoders = [part for part in task.modules() if isinstance(part, Encoder)]
    assert len(encoders) == 2 and all(map(is_compiled, encoders)) and not is_compiled(task.student.head)
    kinds = {type(part) for part in placed(task, HOST).modules() if isinstance(part, nn.Conv3d)}
    assert kinds == {FlatConv3d}  # which only leaves flat maps out of bf16
    plain = placed(build_encoder("unet", 1, 4, (32, 32, 32)), HOST)
    assert not is_compiled(plain) and nn.Conv3d not in {type(part) for part in plain.modules()}


@torch._dynamo.config.patch(recompile_limit=4)
def test_no_piece_of_a_swin_transformer_is_left_out(monkeypatch, caplog):
    """torch stops at 8 pieces, which student and teacher, with and without gradient, exceed; one of them exceeds 4."""
    monkeypatch.setattr(
        Encoder, "compile", lambda self, **how: nn.Module.compile(self, backend="eager", **how)
    )
    torch._dynamo.reset()
    # Tensors without values: what is compiled counts, not what comes out.
    encoder = build_encoder("swin_unetr", 1, 12, (64, 64, 64)).to("meta")
    compile_encoders(encoder, silent)
    with torch.no_grad():
        encoder(torch.empty(1, 1, 64, 64, 64, device="meta"))
    assert "recompile_limit" not in caplog.text


@pytest.mark.parametrize(
    ("name", "size", "edge"), [("unet", 4, 32), ("unetr", 4, 32), ("swin_unetr", 12, 64)]
)
def test_fine_tuning_goes_through_what_was_compiled(name, size, edge, monkeypatch):
    passes = []

    def compiled(self, **_how):
        def call(*inputs, **options):
            passes.append(name)
            return self.forward(*inputs, **options)

        self._compiled_call_impl = call

    monkeypatch.setattr(Encoder, "compile", compiled)
    network = SegmentationNetwork(build_encoder(name, 1, size, (edge,) * 3), 2).to("meta")
    compile_encoders(network, silent)
    network(torch.empty(1, 1, edge, edge, edge, device="meta"))
    assert passes == [name]


def test_a_look_has_batches_of_other_sizes_and_compiles_none_of_them(labelled_cohort, tmp_path, monkeypatch):
    sizes, looks = [], []

    def backend(graph, examples):
        sizes.extend(len(one) for one in examples if one.ndim == 5 and one.shape[2:] == (32, 32, 32))
        return graph.forward

    monkeypatch.setattr(
        Encoder, "compile", lambda self, **how: nn.Module.compile(self, backend=backend, **how)
    )
    torch._dynamo.reset()
    settings = labelled_cohort.settings(run__compile=True, optim__steps=2, run__validate_every=1)
    finetune(settings, tmp_path / "run", listeners=[looks.append])
    torch._dynamo.reset()
    assert set(sizes) == {settings.optim.batch * settings.patches.per_case}
    assert sum(event["type"] == "metrics" and event["split"] == "val" for event in looks) == 2


@pytest.mark.parametrize("error", [TorchDynamoException("g++ -15"), RuntimeError("a pipe of workers broke")])
def test_a_signal_that_ends_the_compiler_too_is_a_stop(error, small_cohort, tmp_path, monkeypatch):
    told = []

    def fail(*_inputs):
        told.append("SIGTERM")
        raise error

    monkeypatch.setattr(Encoder, "compile", lambda self, **_: setattr(self, "_compiled_call_impl", fail))
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(StopRequested, match="at its start") as stopped:
        pretrain(small_cohort.settings(run__compile=True), run.path, should_stop=lambda: bool(told))
    assert "--resume" in stopped.value.hint and run.state() == "stopped"


def test_where_nothing_can_compile_the_job_says_so(small_cohort, tmp_path, monkeypatch):
    def fail(*_inputs):
        raise TorchDynamoException("InvalidCxxCompiler: no working C++ compiler was found\nmore lines")

    monkeypatch.setattr(Encoder, "compile", lambda self, **_: setattr(self, "_compiled_call_impl", fail))
    heard = []
    settings = small_cohort.settings(run__compile=True)
    with pytest.raises(EnvironmentFault, match="no working C") as fault:
        pretrain(settings, tmp_path / "run", listeners=[heard.append])
    assert "run.compile" in fault.value.hint and "\n" not in fault.value.message
    assert any(event.get("name") == "compiling" for event in heard)
