"""From file names to cases: which files are channels of one case, and which are labels. Names only, no file
is opened.

Known without being told: BraTS channels (``X_t1``, ``X_t1ce``, ``X_t2``, ``X_flair`` and their newer
names), nnU-Net's ``X_0000`` in images folders, labels called ``X_seg``, ``X_labels`` or ``X_mask`` beside
the image ``X``, and folders of labels (``labelsTr``, ``labels``, ``masks``, ...) with files of the images'
names. A ``.seg.nrrd`` of 3D Slicer may be called ``X Segmentation`` or, beside a single image, anything.
``segmentation-7`` belongs to ``volume-7``, and ``label0001`` to ``img0001``, beside it or beside the folder
of labels, where one image alone has the number.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from VoCoCore.data.images import strip_extension
from VoCoCore.data.images_itk import is_segmentation
from VoCoCore.errors import SettingsError

SINGLE = "image"
LABEL_WORDS = ("seg", "segmentation", "label", "labels", "mask")
_LABEL_FOLDERS = {"labelstr", "labelsts", "labelsval", "labels", "label", "masks", "mask", "segmentations"}
_LABEL_FOLDERS |= {"segmentation", "segs", "seg", "annotations", "groundtruth"}
_IMAGE_FOLDERS = {"imagestr", "imagests", "imagesval"}
_LABEL_NAME = re.compile(
    rf"^(?:(?P<image>.+)[_.-])?(?:{'|'.join(LABEL_WORDS)})$|^(?:{'|'.join(LABEL_WORDS)})[_.-]?(?P<number>\d+)$",
    re.IGNORECASE,
)
_IMAGE_NUMBER = re.compile(
    r"^(?:volume|vol|image|img|scan|ct|mri?|case)[_.-]?(?P<number>\d+)$", re.IGNORECASE
)
_SLICERS_WORD = re.compile(rf"(?:^|[ _.-]+)(?:{'|'.join(LABEL_WORDS)})(?:_\d+)?$", re.IGNORECASE)
_NUMBERED = re.compile(r"^(?P<image>.+)_(?P<channel>\d{4})$")
_MOST_CHANNELS = 8
_BRATS = {"t1": "t1", "t1n": "t1", "t1ce": "t1ce", "t1gd": "t1ce", "t1c": "t1ce"}
_BRATS |= {"t2": "t2", "t2w": "t2", "flair": "flair", "t2f": "flair"}
_BRATS_NAME = re.compile(rf"^(?P<image>.+)[_-](?P<channel>{'|'.join(_BRATS)})$", re.IGNORECASE)


@dataclass
class Group:
    """Files of one case: ``key`` is its folder and name, ``files`` maps channels to relative paths."""

    key: str
    files: dict[str, str] = field(default_factory=dict)
    label: str | None = None

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The folder of the case's first file."""
        return next(iter(self.files.values())).rpartition("/")[0]


@dataclass
class Arrangement:
    """Cases found among file names, the names of their channels, and files without a case with the reason."""

    groups: list[Group]
    channels: tuple[str, ...]
    unused: list[tuple[str, str]]


def arrange(
    files: Sequence[str],
    channels: Sequence[str] = (),
    labels: str = "",
    predicted: Collection[str] = (),
    root: str = "",
) -> Arrangement:
    """Sort image files (relative, forward slashes) into cases.

    ``channels`` are patterns such as ``t1=*_t1.nii.gz``, or suffixes such as ``_0000``: what ``*`` stands
    for is the same for all files of a case. ``labels`` is a pattern of the same kind, or a folder. Files in
    ``predicted`` may be labels, but no images. ``root`` is the name of the folder that all lie in. Raises SettingsError
    for a pattern that cannot be understood.
    """
    is_label = _matcher(labels) if labels else None
    given = [path for path in files if is_label is not None and is_label.key(path) is not None]
    chosen = set(given)
    rest = [path for path in files if path not in chosen]
    unused: list[tuple[str, str]] = []
    if is_label is None:
        rest, given = _without_labels(rest)
    unused += [(path, "made by voco predict, so no image") for path in rest if path in predicted]
    rest = [path for path in rest if path not in predicted]
    if channels:
        groups, names = _by_patterns(rest, [_matcher(text) for text in channels], unused)
    else:
        groups, names = _by_names(rest, root)
    _give_labels(groups, given, is_label, unused)
    return Arrangement(groups, names, unused)


@dataclass(frozen=True)
class _Pattern:
    name: str
    expression: re.Pattern[str]

    def key(self, path: str) -> str | None:
        """What a case's files have in common: the folder and what the stars stand for; None: no match."""
        found = self.expression.fullmatch(path)
        return None if found is None else "".join(part or "" for part in found.groups()).rstrip("/")


def _matcher(text: str) -> _Pattern:
    """Compile ``name=pattern``; without extension it matches any, beginning with _ or - it is a suffix."""
    name, equals, pattern = text.rpartition("=")
    pattern = pattern.strip().replace("\\", "/").removeprefix("./")
    if not pattern or (equals and not name.strip()):
        raise SettingsError(f"'{text}' is no pattern of file names", "write it like t1=*_t1.nii.gz")
    if pattern[0] in "_-." and "*" not in pattern:
        pattern = "*" + pattern
    if "*" not in pattern and strip_extension(pattern) == pattern:
        pattern = f"{pattern.rstrip('/')}/*"  # a folder
    bare = strip_extension(pattern)
    ending = re.escape(pattern[len(bare) :]) or r"(?:\.nii\.gz|\.nii|\.nrrd|\.mha|\.mhd)"
    body = "([^/]*)".join(re.escape(part) for part in bare.split("*"))
    named = name.strip() or bare.rpartition("/")[2].replace("*", "").strip("_-. ") or bare.partition("/")[0]
    return _Pattern(named, re.compile(rf"(.*/)?{body}{ending}", re.IGNORECASE))


def _by_patterns(
    files: Iterable[str], patterns: Sequence[_Pattern], unused: list[tuple[str, str]]
) -> tuple[list[Group], tuple[str, ...]]:
    groups: dict[str, Group] = {}
    for path in files:
        keys = [(pattern.name, key) for pattern in patterns if (key := pattern.key(path)) is not None]
        if not keys:
            unused.append((path, "matches no pattern of a channel"))
            continue
        # The longest literal pattern leaves the shortest key: *_t1ce before *_t1*.
        channel, key = min(keys, key=lambda found: len(found[1]))
        files_of = groups.setdefault(key, Group(key)).files
        if channel in files_of:
            unused.append((path, f"a second file for channel {channel} of the same case"))
        files_of.setdefault(channel, path)
    names = tuple(dict.fromkeys(pattern.name for pattern in patterns))
    return list(groups.values()), names


def _by_names(files: Sequence[str], root: str) -> tuple[list[Group], tuple[str, ...]]:
    """Recognise nnU-Net's and BraTS' names; every other file is a case of its own."""
    parsed = [_split_path(path) for path in files]
    numbered = _truly_numbered(files, root)
    brats = _brats_cases(parsed)
    groups: dict[str, Group] = {}
    for path, (folder, stem) in zip(files, parsed, strict=True):
        key, channel = _joined(folder, stem), SINGLE
        if folder in numbered and (found := _NUMBERED.match(stem)):
            key, channel = _joined(folder, found["image"]), f"channel_{int(found['channel'])}"
        elif brats and (found := _BRATS_NAME.match(stem)):
            key, channel = _joined(folder, found["image"]), _BRATS[found["channel"].lower()]
        # Two files of one name and different formats stay two cases.
        if channel in groups.setdefault(key, Group(key)).files:
            key = path
        groups.setdefault(key, Group(key)).files[channel] = path
    seen = {channel for group in groups.values() for channel in group.files}
    names = tuple(sorted(seen, key=lambda name: (list(_BRATS).index(name) if name in _BRATS else 99, name)))
    if names in (("channel_0",), (SINGLE,), ()):
        for group in groups.values():
            group.files = {SINGLE: next(iter(group.files.values()))}
        return list(groups.values()), (SINGLE,)
    return list(groups.values()), tuple(name for name in names if name != SINGLE)


def _split_path(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, strip_extension(name)


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _truly_numbered(files: Sequence[str], root: str) -> set[str]:
    """Folders called like nnU-Net's in which every file ends in four digits and channel 0 occurs."""
    stems: dict[str, list[str]] = {}
    for folder, stem in map(_split_path, files):
        if (folder or root).rpartition("/")[2].lower() in _IMAGE_FOLDERS:
            stems.setdefault(folder, []).append(stem)
    return {
        folder
        for folder, names in stems.items()
        if all(map(_NUMBERED.match, names))
        and any(name.endswith("_0000") for name in names)
        and not _one_cohort(names)
    }


def _one_cohort(names: Sequence[str]) -> bool:
    """Whether numbered files count a cohort's cases: one name for all, and more numbers than a case has channels."""
    return len(names) > _MOST_CHANNELS and len({name.rpartition("_")[0] for name in names}) == 1


def _brats_cases(parsed: Iterable[tuple[str, str]]) -> bool:
    """Whether some case has two or more of BraTS' channels: a lone X_t1 is an image like any other."""
    channels: dict[str, set[str]] = {}
    for folder, stem in parsed:
        if found := _BRATS_NAME.match(stem):
            channels.setdefault(_joined(folder, found["image"]), set()).add(_BRATS[found["channel"].lower()])
    return any(len(found) > 1 for found in channels.values())


def _without_labels(files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide files into images and labels by folder and name."""
    images: list[str] = []
    labels: list[str] = []
    for path in files:
        folder, stem = _split_path(path)
        in_folder = any(part.lower() in _LABEL_FOLDERS for part in folder.split("/"))
        (labels if in_folder or _LABEL_NAME.match(stem) else images).append(path)
    return images, labels


class _Images:
    """Groups by all that a label of theirs may be called."""

    def __init__(self, groups: Sequence[Group], labels: Sequence[str]) -> None:
        of_folder: dict[str, list[str]] = {}
        for path in filter(is_segmentation, labels):
            of_folder.setdefault(path.rpartition("/")[0], []).append(path)
        # 3D Slicer calls them "Segmentation", or as somebody wished: a folder of one image says whose one is.
        self.only_segmentations = {paths[0] for paths in of_folder.values() if len(paths) == 1}
        self.by_key = {group.key: group for group in groups}
        self.by_name: dict[str, list[Group]] = {}
        self.by_folder: dict[str, list[Group]] = {}
        self.by_number: dict[str, list[Group]] = {}
        self.mirrored: dict[tuple[str, str, str], list[Group]] = {}
        for group in groups:
            if numbered := _IMAGE_NUMBER.match(group.name):
                self.by_number.setdefault(numbered["number"], []).append(group)
            self.by_name.setdefault(group.name, []).append(group)
            self.by_folder.setdefault(group.folder, []).append(group)
            parts = group.key.split("/")[:-1]
            for at in range(len(parts)):
                place = ("/".join(parts[:at]), "/".join(parts[at + 1 :]), group.name)
                self.mirrored.setdefault(place, []).append(group)

    def of_key(self, key: str) -> Group | None:
        """The image that a label found by a user's pattern belongs to."""
        return self.by_key.get(key) or _only(self.by_name.get(key.rpartition("/")[2]))

    def of_label(self, path: str) -> Group | None:
        """The image that a label belongs to: beside it, or in a folder beside the labels' folder."""
        folder, stem = _split_path(path)
        if is_segmentation(path):
            stem = stem[: -len(".seg")]
        found = _LABEL_NAME.match(stem)
        names = [stem, found["image"]] if found and found["image"] else [stem]
        if is_segmentation(path) and (word := _SLICERS_WORD.search(stem)):
            names.append(stem[: word.start()])
        options = [self.by_key.get(_joined(folder, name)) for name in names]
        parts = folder.split("/")
        at = next((n for n, part in enumerate(parts) if part.lower() in _LABEL_FOLDERS), None)
        if at is not None:
            before, after = "/".join(parts[:at]), "/".join(parts[at + 1 :])
            inner = _joined(before, after) if after else before
            options += [self.by_key.get(_joined(inner, name)) for name in names]
            options += [_only(self.mirrored.get((before, after, name))) for name in names]
        if stem.lower() in LABEL_WORDS or path in self.only_segmentations:
            options.append(_only(self.by_folder.get(folder)))
        if found and found["number"]:
            numbered = _only(self.by_number.get(found["number"]))
            # Not elsewhere: the first mask of one patient is not of the only first scan, which is another one's.
            beside = "" if at is None else "/".join([*parts[:at], ""])
            if numbered and (
                numbered.folder == folder or (at is not None and numbered.key.startswith(beside))
            ):
                options.append(numbered)
        return next((option for option in options if option is not None), None)


def _give_labels(
    groups: Sequence[Group], labels: Sequence[str], pattern: _Pattern | None, unused: list[tuple[str, str]]
) -> None:
    """Set each group's label; labels that find no image, or one that has a label, are unused."""
    images = _Images(groups, labels)
    for path in labels:
        group = images.of_key(pattern.key(path) or "") if pattern else images.of_label(path)
        if group is None:
            unused.append((path, "looks like a label, but there is no image of that name"))
        elif group.label is not None:
            unused.append((path, "a second label of an image that has one"))
        else:
            group.label = path


def _only(groups: Sequence[Group] | None) -> Group | None:
    return groups[0] if groups and len(groups) == 1 else None
