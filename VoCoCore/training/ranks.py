"""What the ranks of a job tell each other between steps: over the network, so that no GPU is waited for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import pad

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

    def all_of(self, named: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The named tensors of each rank, in their order; they travel as safetensors, not as torch's pickles."""
        if self.count == 1:
            return [dict(named)]
        mine = torch.frombuffer(
            bytearray(save({name: v.contiguous() for name, v in named.items()})), dtype=torch.uint8
        )
        sizes = self.sum(torch.eye(self.count, dtype=torch.int64)[dist.get_rank()] * len(mine)).tolist()
        found = [torch.empty(max(sizes), dtype=torch.uint8) for _ in sizes]
        dist.all_gather(found, pad(mine, (0, max(sizes) - len(mine))), group=self._group)
        return [load(part[:size].numpy().tobytes()) for part, size in zip(found, sizes, strict=True)]

    def meet(self) -> None:
        """Wait until all are here."""
        if self.count > 1:
            dist.barrier(self._group)
