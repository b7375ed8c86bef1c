"""What a PyTorch that was built for some graphics cards, and comes with a cuDNN of its own, cannot do on this one."""

from __future__ import annotations

import torch

# These turn 3D convolutions in half precision away, unless channels are innermost, and torch's own way takes ten times
# as long. PyTorch 2.10 comes with 9.10, and later ones too where they are built for CUDA 12.
_CUDNN_WITHOUT_HALF = range(90800, 91500)


def has_kernels() -> bool:
    """Whether this PyTorch holds programs for the first CUDA card; `torch.cuda.is_available` does not ask."""
    own = torch.cuda.get_device_capability(0)
    built = [name.split("_") for name in torch.cuda.get_arch_list() if name.startswith(("sm_", "compute_"))]
    if torch.version.hip or not built:
        return True  # they are named otherwise there
    return any(_runs(kind, number, own) for kind, number in built)


def _runs(kind: str, number: str, own: tuple[int, int]) -> bool:
    """Whether a card of capability ``own`` runs programs built for, say, sm_86 or compute_90."""
    major, minor = divmod(int(number.rstrip("af")), 10)
    if number.endswith("a"):
        return own == (major, minor)
    # Programs serve later cards of the same generation; their portable form serves all later ones.
    return (major, minor) <= own and (kind == "compute" or own[0] == major)


def left_out() -> str:
    """Why a CUDA card that is there is not used: words to add to what is used instead, or ""."""
    if not torch.cuda.is_available() or has_kernels():
        return ""
    name, (major, minor) = torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0)
    return (
        f"{name} is left out: PyTorch {torch.__version__} has no programs for its capability {major}.{minor} "
        "(install a build for an older CUDA)"
    )


def slow_half() -> str:
    """What is slow about half precision on this machine's CUDA cards: words to add, or "".

    Networks then have their channels innermost (`models/placing.py`), which each of their norms undoes and does again.
    """
    version = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    if torch.version.hip or version is None or version not in _CUDNN_WITHOUT_HALF:
        return ""
    return (
        f"slower than need be, because cuDNN {version // 10000}.{version // 100 % 100} has no 3D convolutions in half "
        "precision for the usual order of numbers (install a PyTorch built for CUDA 13)"
    )
