"""What the ranks of a job tell each other between steps: over the network, so that no GPU is waited for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from VoCoCore.devices import patient_group


class Ranks:
    """All ranks of a job. What one of them calls here, each has to call.

    Whoever comes first waits, for days if need be: another may look at large volumes, or write to a slow disk.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    @cached_property
    def _group(self) -> dist.ProcessGroup:
        return patient_group()

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over ranks of a tensor on the host."""
        if self.count > 1:
            dist.all_reduce(numbers, group=self._group)
        return numbers

    def any(self, answer: bool) -> bool:
        """Whether any rank's answer is yes."""
        return answer if self.count == 1 else bool(self.sum(torch.tensor(float(answer))).item())

    def all_of(self, value: Any) -> list[Any]:
        """What each rank has, in their order."""
        found = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(found, value, group=self._group)
        return found

    def meet(self) -> None:
        """Wait until all are here."""
        if self.count > 1:
            dist.barrier(self._group)
