"""Which device, which precision, which rank of how many: decided once, and said in words."""

from __future__ import annotations

import os
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from VoCoCore.cards import has_kernels, left_out, slow_half
from VoCoCore.errors import EnvironmentFault, counted
from VoCoCore.settings import RunSettings

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Machine:
    """Where a job runs. ``words`` says it to a person, with the reason."""

    device: torch.device
    precision: str
    words: str
    rank: int = 0
    ranks: int = 1

    def autocast(self) -> AbstractContextManager:
        """Context in which the network runs at the chosen precision."""
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32")

    @property
    def main(self) -> bool:
        """Whether this rank writes."""
        return self.rank == 0

    def memory_mb(self) -> float:
        """Memory in use: the most that was allocated on the GPU, or the resident size of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        import psutil

        return psutil.Process().memory_info().rss / 2**20


def available() -> list[str]:
    """Kinds of device that work here, best first."""
    kinds = ["cuda"] if torch.cuda.is_available() and has_kernels() else []
    if torch.backends.mps.is_available():
        kinds.append("mps")
    return [*kinds, "cpu"]


def choose(run: RunSettings) -> Machine:
    """The machine for ``run``; joins the other ranks when started by torchrun.

    Raises EnvironmentFault when the device or precision asked for is not there.
    """
    # A job of the processor leaves the card alone: asking for its programs would start CUDA.
    kinds = ["cpu"] if run.device == "cpu" else available()
    kind = kinds[0] if run.device == "auto" else run.device
    if kind not in kinds:
        why = left_out() if kind == "cuda" else ""
        raise EnvironmentFault(
            f"there is no usable {kind.upper()} device here" + (f": {why}" if why else ""),
            f"use --device {kinds[0]}, or run 'voco doctor' to see why",
        )
    rank, ranks, local = _ranks()
    device = torch.device(kind, _card_of(local)) if kind == "cuda" else torch.device(kind)
    precision = _precision(run.precision, device)
    if ranks > 1:
        _join(device)
    if run.threads:
        torch.set_num_threads(run.threads)
    # Crops and windows keep their size: the first of them may try which algorithms are the fastest.
    torch.backends.cudnn.benchmark = True
    # torch rounds what a card convolves to 10 bits unless told; whoever asks for fp32 wants its 23.
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    name = (
        torch.cuda.get_device_name(device) if kind == "cuda" else counted(torch.get_num_threads(), "thread")
    )
    reason = f"chosen from {', '.join(kinds)}" if run.device == "auto" else "asked for"
    words = f"{kind} ({name}), {precision}, {reason}" + (f", {ranks} ranks" if ranks > 1 else "")
    if kind == "cuda" and precision != "fp32" and (slow := slow_half()):
        words += f"; {slow}"
    elif kind != "cuda" and run.device == "auto" and (why := left_out()):
        words += f"; {why}"
    return Machine(device, precision, words, rank, ranks)


_RANK_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


def this_rank() -> int:
    """Number of this process among those that torchrun or srun started; 0 alone."""
    return _ranks()[0]


def all_ranks() -> int:
    """How many processes torchrun or srun started for this job; 1 alone."""
    return _ranks()[1]


def ranks_here() -> int:
    """Number of processes that torchrun has started on this machine; 1 where nobody says so."""
    said = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(said)) if said.isdecimal() else 1


def _ranks() -> tuple[int, int, int]:
    """This process's rank, the number of ranks, and its rank on this machine; EnvironmentFault where they are odd."""
    found = {name: os.environ.get(name, default) for name, default in _RANK_VARIABLES}
    try:
        rank, ranks, local = (int(value) for value in found.values())
    except ValueError:
        rank, ranks, local = -1, 0, 0
    if not 0 <= rank < ranks or local < 0:
        shown = " ".join(f"{name}={value}" for name, value in found.items())
        raise EnvironmentFault(f"the variables of the ranks make no sense: {shown}", _HOW_TO_JOIN)
    return rank, ranks, local


def _card_of(local: int) -> int:
    """Number of the card of rank ``local``, among those that this process sees."""
    by_srun = "SLURM_GPUS_PER_TASK" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    alone = by_srun and torch.cuda.device_count() == 1
    return 0 if alone else local


_HOW_TO_JOIN = "start several ranks with torchrun, and one without RANK and WORLD_SIZE in the environment"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 itself: newer CUDA cards, processors with AMX or AVX512_BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch says so since 2.13; an older one computes in fp32.
    known = getattr(torch.cpu, "get_capabilities", dict[str, bool])()
    return device.type == "cpu" and any(known.get(name) for name in ("amx_bf16", "avx512_bf16"))


def _precision(asked: str, device: torch.device) -> str:
    if asked == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    if asked == "bf16" and device.type == "cuda" and not multiplies_bf16(device):
        raise EnvironmentFault("this GPU has no bf16", "use run.precision fp16 or fp32")
    return asked


def wait_for_each_other() -> None:
    """Wait until every rank is here, for days if need be: one may be preparing volumes.

    Collective operations of a GPU give up after minutes, so this goes over the network.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier(patient_group())


def patient_group() -> dist.ProcessGroup:
    """All ranks, joined by the network alone and for days; every rank has to ask for it at the same place."""
    return dist.new_group(backend="gloo", timeout=timedelta(days=7))


def _join(device: torch.device) -> None:
    if dist.is_initialized():
        return
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise EnvironmentFault(
                f"rank {device.index} of this machine has no GPU: there are {torch.cuda.device_count()}",
                "start as many ranks as there are GPUs, or use --device cpu",
            )
        torch.cuda.set_device(device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise EnvironmentFault(f"the ranks cannot find each other: {why}", _HOW_TO_JOIN) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says, in the words of one of the libraries, that memory has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = (
        "can't allocate memory",
        "not enough memory",
        "out of memory",
        "cannot allocate memory",
        "alloc_failed",  # of cuBLAS and cuDNN, which ask the GPU themselves
        "allocation_failed",
        "unable to find an engine",  # of cuDNN, where no algorithm's work space finds room
    )
    return isinstance(error, RuntimeError | OSError) and any(word in str(error).lower() for word in words)
