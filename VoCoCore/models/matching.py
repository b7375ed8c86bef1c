"""Which tensor of a file belongs where in a network, and what is done to it on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from VoCoCore.errors import DataError
from VoCoCore.models.coverage import Coverage, Mismatch
from VoCoCore.models.identify import TRANSFORMER, identify, source_of
from VoCoCore.models.interface import Encoder
from VoCoCore.models.published import POSITION_TABLE, canonical, is_alias, without_teacher
from VoCoCore.models.weight_files import WeightFile

# Under this name a file's metadata say which parts its training did not reach, so that they are not in it.
UNTRAINED = "untrained"


def match(module: nn.Module, file: WeightFile) -> tuple[dict[str, Tensor], Coverage]:
    """The file's tensors by the module's names, made to fit, and the coverage that loading them gives.

    Of the module only names and shapes are asked: it may be an outline (`outline.py`).
    """
    state, source = module.state_dict(), source_of(file)
    by_canonical = {canonical(name): name for name in state}
    exact = [name for name in file.tensors if name in state]
    others = [name for name in file.tensors if name not in state and not is_alias(name)]
    others, role = without_teacher(others)
    notes = [*file.notes, *filter(None, [role, _untrained(file)])]
    tensors: dict[str, Tensor] = {}
    mismatched: dict[str, Mismatch] = {}
    used = set()
    for name in exact + others:
        target = name if name in state else by_canonical.get(canonical(name), "")
        if not target or target in tensors:
            continue
        used.add(name)
        tensor, note = _fitted(module, target, file.tensors[name], source)
        if tensor.shape == state[target].shape:
            tensors[target] = tensor
            notes += [note] if note else []
        else:
            mismatched[target] = Mismatch(target, tuple(file.tensors[name].shape), tuple(state[target].shape))
    coverage = Coverage(
        loaded=tuple(tensors),
        missing=tuple(name for name in state if name not in tensors and name not in mismatched),
        unexpected=tuple(name for name in file.tensors if name not in used and not is_alias(name)),
        mismatched=tuple(mismatched.values()),
        notes=tuple(notes),
        sizes={name: parameter.numel() for name, parameter in module.named_parameters()},
    )
    return tensors, coverage


def _untrained(file: WeightFile) -> str:
    parts = [part for part in file.metadata.get(UNTRAINED, "").split(",") if part]
    return f"{', '.join(parts)} begin anew: the pre-training did not reach them" if parts else ""


def description_of(module: nn.Module) -> dict[str, str]:
    """`Encoder.description` of the encoder inside a module, empty where there is none."""
    return next((encoder.description() for _, encoder in _encoders(module)), {})


def check_match(
    module: nn.Module,
    file: WeightFile,
    tensors: Mapping[str, Tensor],
    coverage: Coverage,
    *,
    minimum: float,
    allow_partial: bool,
    part: str = "",
) -> None:
    """Raise DataError where a match fills too little of ``part`` (see `load_weights`), leaves out a table of positions
    that has one, or fills it with values not finite.
    """
    share = coverage.share(part)
    if share == 0 or (share < minimum and not allow_partial):
        whose = f"the {part.rstrip('.')}'s" if part else "this network's"
        message = f"{file.path} fills only {share:.0%} of {whose} weights"
        raise DataError(message, _why_little(module, file, coverage))
    tables = [m for m in coverage.mismatched if m.name.endswith(POSITION_TABLE)]
    if tables and not allow_partial:
        # Tokens alone do not tell the edges of crops that are no cubes.
        message = f"{file.path} does not say for crops of which size its position table is ({tables[0]})"
        hint = "make a file that does: 'voco weights convert --size X,Y,Z', with the crop's voxels along each axis"
        raise DataError(message, hint)
    if broken := not_finite(tensors):
        message = f"{file.path} holds values that are not finite, in {broken}"
        raise DataError(message, "use an earlier checkpoint")


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Name of the first tensor with values that are not finite; empty where there is none."""
    return next((n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()), "")


def _why_little(module: nn.Module, file: WeightFile, coverage: Coverage) -> str:
    """One reason that a person can act on: another network, else the first tensor that does not fit."""
    found = identify(file)
    theirs, ours = (
        " with feature size ".join(filter(None, (facts.get("encoder"), facts.get("feature_size"))))
        for facts in (found.encoder or {}, description_of(module))
    )
    if ours and not theirs:
        return f"the file holds {found.words}, the network is {ours}"
    if theirs and ours and theirs != ours:
        return f"the file looks like {theirs}, the network is {ours}"
    if found.kind == TRANSFORMER:
        return f"the file holds {found.words}; --allow-partial accepts it and leaves the rest random"
    reasons = [*map(str, coverage.mismatched), *(f"{name} is missing" for name in coverage.missing)]
    return f"{reasons[0]}; 'voco weights inspect' lists what is in the file"


def _encoders(module: nn.Module) -> Iterator[tuple[str, Encoder]]:
    for name, part in module.named_modules():
        if isinstance(part, Encoder):
            yield f"{name}." if name else "", part


def _fitted(module: nn.Module, target: str, tensor: Tensor, source: Mapping[str, str]) -> tuple[Tensor, str]:
    for prefix, encoder in _encoders(module):
        if target.startswith(prefix):
            return encoder.adapt(target.removeprefix(prefix), tensor, source)
    return tensor, ""
