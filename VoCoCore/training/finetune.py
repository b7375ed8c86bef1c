"""Fine-tuning as one job: plan, prepare, train, look at validation cases, leave the best network in a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from VoCoCore import __version__
from VoCoCore.data.labelled import LabelledSamples
from VoCoCore.downstream.classification import Classification
from VoCoCore.downstream.groups import parameter_groups
from VoCoCore.downstream.segmentation import Segmentation
from VoCoCore.errors import EnvironmentFault
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.models.card import ModelCard
from VoCoCore.models.compiling import compile_encoders, uncompiled
from VoCoCore.models.initialise import initialise
from VoCoCore.models.model_files import save_model
from VoCoCore.runs.files import read_json
from VoCoCore.settings import SCRATCH
from VoCoCore.training import checkpoint
from VoCoCore.training.attempt import Attempt, Result, carry_out
from VoCoCore.training.cohort import kept_as
from VoCoCore.training.finetune_look import Looker, best_of, values_of
from VoCoCore.training.finetune_needs import out_of_memory, say_needs
from VoCoCore.training.finetune_plan import Planned, planned, source_of, with_steps
from VoCoCore.training.finetune_warnings import warnings_of
from VoCoCore.training.labelled_cohort import LabelledCohort, gather_labelled
from VoCoCore.training.loop import Look
from VoCoCore.training.opening import as_chosen, public
from VoCoCore.training.updates import Updater

__all__ = ["Finetuning", "finetune"]

SOURCE = "source.json"  # in a run's private folder


class Finetuning(Attempt):
    """One attempt at a fine-tuning; `finetune` is the way to it."""

    settings: FinetuneSettings
    cohort: LabelledCohort
    plan: Planned

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.since_best, self.source = 0, dict[str, str]()
        self.said = set[str]()  # what has been said of memory
        self.first = not checkpoint.checkpoints(self.run.checkpoints)

    # Cases, and what was left open

    def gather(self) -> None:
        """Find the cases, fill what is open, prepare; other ranks take up what the first one has written."""
        self.settings = as_chosen(self.settings, self.run)
        self.source = self._source()
        kept = kept_as(LabelledCohort, self.run)
        join = kept is None or kept.joined
        self.plan = planned(self.settings, self.source, self.machine, self._say, join)
        self.settings = self.plan.settings
        self.cohort = (None if self.machine.main else kept) or gather_labelled(
            self.settings,
            self.run,
            self.plan.index,
            self.plan.unlabelled,
            self.plan.classes,
            self.emit,
            self.should_stop_alone,
        )
        if self.machine.main:
            self._set_steps()
            told = warnings_of(self.cohort, self.plan.classes, self.settings.task, self.source)
            for message, hint in told:
                self.emit("warning", message=message, hint=hint)

    def _say(self, text: str) -> None:
        """Tell why something was chosen."""
        self.emit("stage", name="plan", text=text)

    def _source(self) -> dict[str, str]:
        """What the weights to start from say of themselves; once it is under way, a run does without their file."""
        kept = read_json(self.run.private / SOURCE)
        if not self.first and isinstance(kept, dict):
            return {name: value for name, value in kept.items() if isinstance(value, str)}
        found = source_of(self.settings.init)
        if self.machine.main:
            self.run.write_json(f"private/{SOURCE}", found)
        return found

    def _set_steps(self) -> None:
        """The number of steps may depend on how long one takes, so it comes last; then all values are written."""
        self.plan = with_steps(self.plan, self.machine, self._say)
        self.settings = self.plan.settings
        if self.first:
            self.run.write_json("settings.json", public(self.settings))
        self.run.write_status("preparing", total=self.settings.optim.steps)

    def facts(self) -> dict[str, Any]:
        """Counts and a fingerprint."""
        return self.cohort.facts()

    def say_needs(self) -> None:
        """Memory and disk."""
        network, channels = self.plan.network(), len(self.plan.channels)
        say_needs(self.settings, network, channels, self.machine, self.run.path, self.emit)

    def out_of_memory(self) -> EnvironmentFault:
        """What to change."""
        return out_of_memory(self.settings, self.machine)

    # The network

    def build(self) -> Any:
        """The network with the weights that it starts from, in its task."""
        network = self.plan.network()
        init, partial = self.settings.init, self.settings.model.allow_partial
        coverage = initialise(network, init, partial) if self.first else None
        if coverage is not None:
            self.emit("stage", name="weights", text=coverage.by_part())
            self.note(coverage={"fraction": coverage.fraction, **coverage.to_dict()["parts"]})
        if self.settings.run.compile:
            compile_encoders(network, self.emit)
        if self.settings.task == "segmentation":
            return Segmentation(self.settings, network, self.plan.classes, self.plan.activation)
        counts = [sum(m.target == n for m in self.cohort.train) for n in range(len(self.plan.classes))]
        return Classification(self.settings, network, counts)

    def updater_of(self, task: nn.Module) -> Updater:
        """Groups of parameters with their own rates."""
        network: Any = task.network
        return Updater(parameter_groups(network, self.settings.optim), self.settings.optim, self.machine)

    def samples(self) -> LabelledSamples:
        """Crops of the training cases."""
        members, segmentation = self.cohort.train, self.settings.task == "segmentation"
        targets = None if segmentation else [member.target for member in members]
        keys = [member.key for member in members]
        self.note(finetune=self._own_facts())
        return LabelledSamples(Path(self.cohort.store), keys, self.settings, targets)

    def _own_facts(self) -> dict[str, Any]:
        start = "scratch" if self.settings.init == SCRATCH else self.source.get("what", "weights")
        return {
            "task": self.settings.task,
            "train_cases": len(self.cohort.train),
            "init": start,
            "parent": {name: self.source[name] for name in ("recipe", "steps", "run") if name in self.source},
            "labels": self.settings.data.labels,
            "fold": self.settings.data.fold,
        }

    # Looks and the end

    @uncompiled()
    def look(self, done: int) -> Look:
        """Scores of the validation cases, divided among the ranks."""
        if not self.cohort.val:
            return Look()
        looker = Looker(
            self.task,
            self.cohort,
            self.settings,
            self.machine,
            self.ranks,
            self.plan.classes,
            self._say_slower,
        )
        seen = looker.look(self.breaks_off)
        if seen is None:
            return Look(owed=True)
        values = values_of(seen, self.plan.classes, self.settings.task)
        score = best_of(seen, self.plan.classes, self.settings.task)
        self.is_best = self.ranks.any(score > self.best)  # machines may round the mean differently
        self.best, self.since_best = max(self.best, score), 0 if self.is_best else self.since_best + 1
        self.emit("metrics", step=done, split="val", values=values)
        if self.machine.main:
            looker.keep(self.run.validation, seen, done)
            self.emit("image", file="validation/latest.npz", step=done)
        enough = self.has_enough()
        if enough:
            text = f"no better look for {self.since_best} times: the best one is kept"
            self.emit("stage", name="enough", text=text)
        return Look(better=self.is_best, enough=enough)

    def _say_slower(self, text: str) -> None:
        if text in self.said:  # of each case anew
            return
        self.said.add(text)
        self.emit("warning", message=f"validation: {text}", hint="it takes longer; scores stay the same")

    def has_enough(self) -> bool:
        """Whether so many looks were none the better that patience is over."""
        patience = self.settings.optim.patience
        return patience is not None and self.since_best >= patience

    def kept(self) -> dict[str, Any]:
        """The best score so far, and how many looks ago it was."""
        return {**super().kept(), "since_best": self.since_best}

    def take_up(self, extra: dict[str, Any]) -> None:
        """Take up what `kept` gave."""
        super().take_up(extra)
        self.since_best = int(extra["since_best"])

    def export(self, done: int) -> Path:
        """The best network with its card."""
        path = self.run.weights / "model.safetensors"
        if self.machine.main:
            best = checkpoint.load_best(self.run.checkpoints, self.task)
            save_model(self.task.export(), self.card(best or done), path)
            where = f"that of step {best}, the best on the validation cases" if best else "the last state"
            self.emit("stage", name="weights", text=f"kept is {where}")
        return path

    def card(self, step: int) -> ModelCard:
        """What prediction must know."""
        settings, size = self.settings, self.settings.patches.size
        assert settings.model.encoder and settings.model.feature_size and size
        facts = {
            "run": self.run.name,
            "step": str(step),
            "protocol": settings.protocol,
            "train_cases": str(len(self.cohort.train)),
            "val_cases": str(len(self.cohort.val)),
            "data": self.cohort.fingerprint,
            "start": str(self._own_facts()["init"]),
            "vococore": __version__,
            **({"validation_score": f"{self.best:.4f}"} if self.best >= 0 else {}),
        }
        return ModelCard(
            task=settings.task,
            encoder=settings.model.encoder,
            feature_size=settings.model.feature_size,
            window=size,
            classes=self.plan.classes,
            activation=self.plan.activation,
            prepare=settings.prepare.to_dict(),
            channels=self.plan.channels,
            body_part=settings.data.body_part,
            facts=facts,
        )


def finetune(
    settings: FinetuneSettings,
    run_folder: str | Path,
    **options: Any,
) -> Result:
    """Fine-tune as ``settings`` (see `protocols.resolve_finetune`) say, in ``run_folder``; one fold or none.

    ``options`` are those of `attempt.carry_out`, which says what is raised.
    """
    return carry_out(Finetuning, settings, run_folder, **options)
