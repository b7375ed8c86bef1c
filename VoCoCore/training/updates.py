"""One optimiser step: AdamW that scales, clips and skips on the device, without waiting for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from VoCoCore.devices import Machine
from VoCoCore.settings import UpdateSettings

FIRST_SCALE, GROW_AFTER = 2.0**16, 2000
LEAST_SCALE = 2.0**-16  # halved on, it would be 0 after 165 skipped steps, and no later step could count


class Updater:
    """Owns the optimiser, the loss scale (fp16) and the count of skipped steps.

    A step whose gradient is not finite changes nothing: the decision is a tensor that the fused kernel reads, as a
    gradient scaler's ``found_inf``. Clipping is part of the same kernel's scale.

    Parameters may come in groups (dictionaries with ``params``): ``share`` is a group's learning rate as a share of the
    schedule's, and before step ``first_step`` the group is left alone.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        optim: UpdateSettings,
        machine: Machine,
    ) -> None:
        groups = _as_groups(parameters)
        self.parameters = [p for group in groups for p in group["params"]]
        # Not in the optimiser's groups, which a checkpoint would replace.
        self.rates = [(group.pop("share"), group.pop("first_step")) for group in groups]
        # MPS kernels take no found_inf: there the flag is read, which waits for the device.
        self.fused = machine.device.type != "mps"
        self.optimizer = torch.optim.AdamW(
            groups, lr=0.0, weight_decay=optim.weight_decay, amsgrad=optim.amsgrad, fused=self.fused
        )
        self.clip, self.dynamic = optim.clip, machine.precision == "fp16"

        def number(value: float) -> Tensor:
            return torch.tensor(value, device=machine.device)

        self.scale = number(FIRST_SCALE if self.dynamic else 1.0)
        self.good, self.skipped, self.norm = number(0.0), number(0.0), number(0.0)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``."""
        (loss * self.scale if self.dynamic else loss).backward()

    @torch.no_grad()
    def step(self, lr: float, step: int = 0) -> None:
        """Update the parameters with the schedule's rate ``lr`` of 0-based ``step``, or skip; forget the gradient."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.norm = torch.nn.utils.get_total_norm(gradients) / self.scale
        bad = (~torch.isfinite(self.norm)).float()
        divisor = self.scale if self.clip is None else self.scale * (self.norm / self.clip).clamp(min=1)
        for group, (share, first_step) in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = lr * share if step >= first_step else 0.0
        self._apply(gradients, divisor, bad)
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped += bad
        if self.dynamic:
            self._adapt_scale(bad)

    def _apply(self, gradients: list[Tensor], divisor: Tensor, bad: Tensor) -> None:
        if self.fused:
            self.optimizer.grad_scale, self.optimizer.found_inf = divisor, bad  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not bad.item():
            torch._foreach_div_(gradients, divisor)
            self.optimizer.step()

    def _adapt_scale(self, bad: Tensor) -> None:
        grown = (self.good + 1 >= GROW_AFTER).float() * (1 - bad)
        self.scale = (self.scale * torch.where(bad > 0, 0.5, 1 + grown)).clamp(min=LEAST_SCALE)
        self.good = (self.good + 1) * (1 - bad) * (1 - grown)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        counters = {name: getattr(self, name).cpu() for name in ("scale", "good", "skipped")}
        return {"optimizer": self.optimizer.state_dict(), **counters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, also on a device of another kind."""
        kept = _of_trained(state["optimizer"], len(self.parameters))
        # Which kernel computes a step goes with the device, and torch would take over that of the run before.
        groups = [{**group, "fused": self.fused} for group in kept["param_groups"]]
        self.optimizer.load_state_dict({**kept, "param_groups": groups})
        for name in ("scale", "good", "skipped"):
            setattr(self, name, state[name].to(self.scale.device))


def _of_trained(state: dict[str, Any], count: int) -> dict[str, Any]:
    """An optimiser's state for ``count`` parameters: it may list more, of which no gradient has ever reached some.

    Older checkpoints of `paper` do: they list the convolutions beside a transformer, which it does without.
    """
    groups = state["param_groups"]
    if sum(len(group["params"]) for group in groups) == count:
        return state
    moved = [{**group, "params": [n for n in group["params"] if n in state["state"]]} for group in groups]
    return {**state, "param_groups": moved}


def _as_groups(parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups with all their values and only what is trained."""
    given: list[Any] = list(parameters)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    whole = ({"share": 1.0, "first_step": 0, **group} for group in groups)
    return [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in whole]
