"""What a job wants to have of each case: the part of its settings that preparing depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from VoCoCore.data.cases import Case, Source
from VoCoCore.data.plan import Size, planned_body_part
from VoCoCore.settings import PrepareSettings, PretrainSettings


@dataclass(frozen=True)
class Wanted:
    """How cases are prepared.

    ``volume_size``: what preparing resizes or pads to (1, 1, 1: nothing). ``labels``: the values that a label file may
    hold; with them the label is prepared beside the images, at the same voxels. ``ignored``: the one among them whose
    voxels do not count. ``levels``: how fine the images are
    kept, "uint8" or "int16".
    """

    prepare: PrepareSettings
    volume_size: Size
    body_part: str | None = None
    labels: tuple[int, ...] | None = None
    levels: str = "uint8"
    ignored: int | None = None

    @classmethod
    def of(cls, settings: PretrainSettings | Wanted) -> Wanted:
        """What a pre-training job wants."""
        if isinstance(settings, Wanted):
            return settings
        size = settings.crops.volume_size
        assert size is not None, "settings are resolved before cases are prepared"
        return cls(settings.prepare, size, settings.data.body_part)

    def body_part_of(self, case: Case) -> str | None:
        """What the list of cases, or else the settings, say that a case shows."""
        return case.body_part or self.body_part

    def planned_part(self, case: Case) -> str | None:
        """The body part whose rule applies to a case."""
        return planned_body_part(self.prepare, self.body_part_of(case))

    def sources(self, case: Case) -> tuple[Source, ...]:
        """All that is read of a case: its images, and its label where labels are wanted."""
        return (*case.images, case.label) if self.labels is not None and case.label else case.images

    def facts(self) -> dict[str, Any]:
        """What is wanted, for the header of a prepared case."""
        return {"prepare": self.prepare.to_dict(), "volume_size": list(self.volume_size), **self.beyond()}

    def beyond(self) -> dict[str, Any]:
        """What a key covers beside content, preparing, size and body part; nothing for pre-training."""
        if self.labels is None and self.levels == "uint8":
            return {}
        labels = None if self.labels is None else sorted(self.labels)
        # Only where there is one: other cases keep the keys that they have.
        ignored = {} if self.ignored is None else {"ignored": self.ignored}
        return {"labels": labels, "levels": self.levels, **ignored}
