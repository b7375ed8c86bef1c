"""Segmentations of 3D Slicer among references and predictions: what a voxel is, the names of segments say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from VoCoCore.data.cases import Index, Source
from VoCoCore.data.names import same_name
from VoCoCore.data.segments import matched, named_values, segments_of, with_segments
from VoCoCore.evaluation.label_names import LabelNames, labels_beside
from VoCoCore.evaluation.pairs import Pair, Reference


def with_values_of(
    predictions: Path, references: Sequence[Reference], index: Index | None
) -> tuple[tuple[Reference, ...], Index | None]:
    """References whose labels are segments, and their list, with the values that the names have in labels.json beside
    the predictions. Other references as they are; so are regions, which are made of values.
    """
    values = {same_name(name): of[0] for name, of in labels_beside(predictions).labels.items()}
    named = all(reference.label.segments for reference in references)
    if index is None or not index.labels or index.regions or not (named and values):
        return tuple(references), index
    free = (number for number in count(1) if number not in values.values())
    labels = {
        name: values.get(same_name(name)) or next(free) if value else 0
        for name, value in index.labels.items()
    }
    index = with_segments(replace(index, labels=labels))
    by_path = {case.label.path: case.label for case in index.cases if case.label is not None}
    return tuple(replace(one, label=by_path[one.label.path]) for one in references), index


def by_segment_names(pairs: Sequence[Pair], names: LabelNames) -> tuple[tuple[Pair, ...], LabelNames]:
    """``pairs`` whose segmentations are read by the names of their segments, and the labels to score.

    Where nobody named labels these are the segments of the references, if all references have some. A file none of
    whose segments has a label's name keeps its voxel values. Segments that are no label are refused when they are
    read, or are background where the user chose some labels.
    """
    if not names.labels:
        segments = [segments_of(pair.reference.label.path) for pair in pairs]
        if not all(segments):
            return tuple(pairs), names
        values = named_values(one.name for of_case in segments for one in of_case)
        labels: dict[str, tuple[int, ...]] = {name: (value,) for name, value in values.items() if value}
        names = LabelNames(labels, "the names of the references' segments", frozenset(values.values()))
    return tuple(_named(pair, names) for pair in pairs), names


def _named(pair: Pair, names: LabelNames) -> Pair:
    reference = replace(pair.reference, label=_by_name(pair.reference.label, names))
    return Pair(reference, _by_name(pair.prediction, names))


def _by_name(source: Source, names: LabelNames) -> Source:
    if source.segments:
        return source
    segments = segments_of(source.path)
    found = matched(segments, {name: values[0] for name, values in names.labels.items()})
    if found and not names.declared:
        others = dict.fromkeys((segment.name for segment in segments), 0)
        found = tuple({**others, **dict(found)}.items())
    return replace(source, segments=found)
