"""What the trainer would see of one volume: prepared, divided, cut and labelled by the trainer's own functions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from VoCoCore.data.apply import apply_plan
from VoCoCore.data.images import read_case
from VoCoCore.data.plan import plan_case
from VoCoCore.data.sampling import draw, random_boxes
from VoCoCore.data.sources import index_source
from VoCoCore.errors import DataError
from VoCoCore.evaluation.figures import draw_crops
from VoCoCore.geometry import Grid, spacing_of
from VoCoCore.settings import PretrainSettings


@dataclass(frozen=True)
class Preview:
    """The picture that was written, and in words what preparing decided."""

    path: Path
    notes: tuple[str, ...]


def draw_preview(
    volume: str | Path, settings: PretrainSettings, path: str | Path, sample: int = 0
) -> Preview:
    """Draw the crops of sample number ``sample`` of one volume to ``path`` (.png or .html).

    Raises DataError when ``volume`` is not exactly one case.
    """
    cases = index_source(volume, body_part=settings.data.body_part).cases
    if len(cases) != 1:
        raise DataError(
            f"{volume} holds {len(cases)} volumes", "name one image file, or the folder of one DICOM series"
        )
    array, affine = read_case(cases[0])
    size = settings.crops.volume_size
    assert size
    plan = plan_case(array, affine, settings.prepare, size, cases[0].body_part)
    prepared = apply_plan(array, plan)
    made = draw(settings, sample, prepared.shape[1:])
    cut = tuple(slice(int(a), int(a) + n) for a, n in zip(made.region, size, strict=True))
    region, grid = prepared[0][cut] / 255.0, Grid(size, settings.crops.counts)
    written = draw_crops(region, grid, random_boxes(made), made.labels, path, spacing=spacing_of(plan.affine))
    return Preview(written, (*plan.notes, *plan.warnings))
