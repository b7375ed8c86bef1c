"""Fine-tuned networks as files: weights and card in one."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from VoCoCore.errors import DataError, VocoError, counted
from VoCoCore.models.card import ModelCard
from VoCoCore.models.decoders import DEEP_HEADS
from VoCoCore.models.networks import build_network
from VoCoCore.models.outline import outline_of
from VoCoCore.models.weight_files import read_weight_file
from VoCoCore.models.weights import write_tensors


def save_model(network: nn.Module, card: ModelCard, path: str | Path) -> None:
    """Write a fine-tuned network with its card as safetensors, beside ``path`` first; without deep heads.

    Raises EnvironmentFault when it cannot be written.
    """
    write_tensors(model_tensors(network), path, card.to_metadata())


def model_tensors(network: nn.Module) -> dict[str, Tensor]:
    """A network's tensors but for those that only training uses."""
    return {
        name: tensor for name, tensor in network.state_dict().items() if DEEP_HEADS not in name.split(".")
    }


def load_model(path: str | Path) -> tuple[nn.Module, ModelCard]:
    """The fine-tuned network in a file, on the CPU and in evaluation mode, and its card.

    Raises DataError where the file is none such, or does not hold the whole network in finite values.
    """
    file = read_weight_file(path)
    card = ModelCard.from_metadata(file.metadata, file.path)
    try:
        # Without values first: a card may ask for more than there is memory.
        wanted = outline_of(card).state_dict()
    except VocoError as error:
        raise DataError(f"{file.path} describes a network that cannot be: {error.message}", _AGAIN) from None
    _check_whole(wanted, file.tensors, file.path)
    network = build_network(card)
    network.load_state_dict(file.tensors, strict=False)
    return network.eval(), card


_AGAIN = "copy the file again, or take the last checkpoint of its run"


def _check_whole(wanted: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        lacking = counted(len(missing), "tensor")
        raise DataError(f"{path} lacks {lacking} of its network, {missing[0]} first", _AGAIN)
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            shapes = f"{list(found[name].shape)}, its card asks for {list(tensor.shape)}"
            raise DataError(f"{path} holds {name} in the shape {shapes}", _AGAIN)
        if found[name].is_floating_point() and not found[name].isfinite().all():
            raise DataError(
                f"{path} holds values that are not finite, in {name}", "use an earlier checkpoint"
            )
    if strange := sorted(found.keys() - wanted.keys()):
        raise DataError(f"{path} holds {strange[0]}, which its network does not have", _AGAIN)
