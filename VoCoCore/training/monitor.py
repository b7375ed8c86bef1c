"""Progress, metrics and warnings of a running job, read from the device every so many steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from VoCoCore.devices import Machine
from VoCoCore.errors import counted
from VoCoCore.pretext.task import Outcome
from VoCoCore.settings import RunSettings
from VoCoCore.training.updates import Updater

Emit = Callable[..., None]
# Share of steps skipped, and likeness of base crops, from which something is wrong.
MANY_SKIPPED, ALIKE = 0.05, 0.95
# Base crops all look alike to an untrained network, so a verdict waits for this share of the run.
SETTLED = 0.2


class Monitor:
    """Averages loss terms on the device between reports and emits ``progress``, ``metrics`` and ``warning`` events."""

    def __init__(
        self,
        run: RunSettings,
        steps: int,
        machine: Machine,
        updater: Updater,
        diagnostics: Any,
        emit: Emit,
        start: int,
    ) -> None:
        self.log_every, self.steps = run.log_every, steps
        self.machine, self.updater = machine, updater
        self.diagnostics, self.emit = diagnostics, emit
        self.first = self.last = start
        self.marked = time.monotonic()
        self.origin = start, self.marked  # from where on the time left is reckoned
        self.sums: dict[str, Tensor] = {}
        self.warned: set[str] = set()

    def after_step(self, done: int, lr: float, outcome: Outcome, last: bool) -> None:
        """Count one step; report when due."""
        for name, term in outcome.terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + term.detach()
        if last or done % self.log_every == 0 or done == self.first + 1:
            self._report(done, lr, outcome)

    def _report(self, done: int, lr: float, outcome: Outcome) -> None:
        values = self._read(done - self.last, outcome)
        now, total = time.monotonic(), self.steps
        rate = (done - self.last) / max(now - self.marked, 1e-9)
        overall = (done - self.origin[0]) / max(now - self.origin[1], 1e-9)
        values |= {"learning_rate": lr, "rate": rate, "memory_mb": self.machine.memory_mb()}
        self.last, self.marked, self.sums = done, now, {}
        if done == self.first + 1:
            # In it workers start, and networks are compiled, which may take as long as a thousand of the others.
            self.origin = done, now
        # Validation and checkpoints count in the time left, so it comes from the whole run, not the last window.
        self.emit("progress", step=done, total=total, rate=rate, eta_s=(total - done) / overall)
        self.emit("metrics", step=done, split="train", values=values)
        self._watch(done, values)

    def _read(self, steps: int, outcome: Outcome) -> dict[str, float]:
        """All numbers of a report in one copy from the device."""
        named = {f"loss_{name}": total / steps for name, total in self.sums.items()}
        named["loss"] = torch.stack(list(named.values())).sum()
        named |= self.diagnostics(outcome)
        named |= {"gradient_norm": self.updater.norm, "skipped_steps": self.updater.skipped}
        numbers = torch.stack([value.float() for value in named.values()]).tolist()
        return dict(zip(named, numbers, strict=True))

    def _watch(self, done: int, values: dict[str, float]) -> None:
        settled = done >= SETTLED * self.steps and done >= 50
        if values["skipped_steps"] > max(3, MANY_SKIPPED * done):
            self._warn(
                "skipped",
                f"{values['skipped_steps']:.0f} of {counted(done, 'step')} skipped: their gradient was not finite",
                "lower optim.lr, set optim.clip to 1, or use run.precision bf16 or fp32",
            )
        if settled and values.get("base_similarity", 0.0) > ALIKE:
            self._warn(
                "collapse",
                f"collapse: the network sees nearly the same in every base crop (mean similarity "
                f"{values['base_similarity']:.2f}, effective rank {values['effective_rank']:.1f})",
                "set optim.clip to 1, use larger crops (crops.input_size) or a larger optim.batch, lower optim.lr, or "
                "use the recipe v1 with its teacher",
            )

    def _warn(self, kind: str, message: str, hint: str) -> None:
        if kind not in self.warned:
            self.warned.add(kind)
            self.emit("warning", message=message, hint=hint)
