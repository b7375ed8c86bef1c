"""What is in a store, for a person to look at: a table of decisions and a contact sheet of middle slices."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from VoCoCore.data.apply import LEVELS
from VoCoCore.data.store import PreparedVolume, Store
from VoCoCore.errors import counted
from VoCoCore.geometry import spacing_of
from VoCoCore.runs.files import patiently, writing

# View -> axis that is cut, letters at left, right, top and bottom as a radiologist expects them.
VIEWS = {"axial": (2, "RLAP"), "coronal": (1, "RLSI"), "sagittal": (0, "APSI")}
_ROW_INCHES, _TEXT_INCHES, _VIEW_INCHES, _TITLE_INCHES = 2.2, 2.9, 2.5, 0.35
_DARK, _LIGHT, _LETTER = "#101418", "#dfe6ee", "#ffd166"
_EDGES = ((0.0, 0.5), (1.0, 0.5), (0.5, 1.0), (0.5, 0.0))
_AWAY = ((-6.0, 0.0), (6.0, 0.0), (0.0, 6.0), (0.0, -6.0))  # points


def contact_sheet(
    store: Store,
    keys: Sequence[str],
    path: str | Path,
    *,
    names: Sequence[str] | None = None,
    per_page: int = 8,
) -> list[Path]:
    """Draw the middle axial, coronal and sagittal slice of each case as PNG, the patient's right on the left.

    One row a channel; ``names`` stand beside the rows, short keys without them. Beyond ``per_page`` cases
    further pages are written beside ``path``, numbered from 2. Returns the files. Raises DataError for a case
    that is not there, EnvironmentFault where a file cannot be written.
    """
    path = Path(path)
    labels = list(names) if names is not None else [key[:12] for key in keys]
    pages = []
    for first in range(0, len(keys), per_page):
        page = path if first == 0 else path.with_stem(f"{path.stem}-{first // per_page + 1}")
        chosen = slice(first, first + per_page)
        _write_beside(page, _draw(store, keys[chosen], labels[chosen]))
        pages.append(page)
    return pages


def describe(
    store: Store,
    keys: Iterable[str] | None = None,
    *,
    names: Mapping[str, str] | None = None,
    limit: int = 50,
) -> Table:
    """Table of the cases of a store: size, spacing, what was decided, disk use; ``names`` by key.

    At most ``limit`` rows; the title speaks of all. Raises EnvironmentFault for a folder that is no store.
    """
    store.check()
    chosen = list(store.keys() if keys is None else dict.fromkeys(keys))
    sizes = [store.size(key) for key in chosen]
    table = Table(title=escape(f"{store.root}: {counted(len(chosen), 'case')}, {sum(sizes) / 1e6:.1f} MB"))
    for column in ("case", "voxels", "spacing mm", "decided", "MB"):
        table.add_column(column, justify="right" if column == "MB" else "left", overflow="fold")
    for key, size in list(zip(chosen, sizes, strict=True))[:limit]:
        header = store.header(key)
        warnings = [f"[yellow]{escape(text)}[/yellow]" for text in _plan(header)["warnings"]]
        table.add_row(
            escape((names or {}).get(key, key[:12])),
            _voxels(header["shape"]),
            _spacing(header),
            "\n".join([*map(escape, _plan(header)["notes"]), *warnings]),
            f"{size / 1e6:.1f}",
        )
    if len(chosen) > limit:
        table.caption = f"{limit} of {len(chosen)} cases are shown"
    return table


def radiological(volume: np.ndarray, view: str) -> np.ndarray:
    """The middle slice of ``volume`` (X, Y, Z) along R, A, S, as a picture: rows from top to bottom."""
    axis, _ = VIEWS[view]
    # Right, anterior and superior grow along the axes: all of them belong to the left or the top.
    return volume.take(volume.shape[axis] // 2, axis=axis)[::-1, ::-1].T


def _draw(store: Store, keys: Sequence[str], labels: Sequence[str]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    volumes = [store.open(key) for key in keys]
    rows = [
        (volume, label, channel)
        for volume, label in zip(volumes, labels, strict=True)
        for channel in range(volume.shape[0])
    ]
    widths, height = [_TEXT_INCHES, *[_VIEW_INCHES] * 3], _ROW_INCHES * len(rows) + _TITLE_INCHES
    figure = Figure(figsize=(sum(widths), height), dpi=110, facecolor=_DARK)
    grid = figure.subplots(len(rows), 4, squeeze=False, width_ratios=widths)
    top = 1 - _TITLE_INCHES / height
    figure.subplots_adjust(left=0.01, right=0.98, top=top, bottom=0.02, wspace=0.14, hspace=0.2)
    for axes, view in zip(grid[0, 1:], VIEWS, strict=True):
        axis_box = axes.get_position()
        middle = (axis_box.x0 + axis_box.x1) / 2
        figure.text(middle, 1 - 0.1 / height, view, color=_LIGHT, fontsize=9, ha="center", va="top")
    for axes, (volume, label, channel) in zip(grid, rows, strict=True):
        text = f"{label}\n{_caption(volume, channel)}"
        # A name may hold dollar signs, which are no mathematics.
        axes[0].text(0, 0.5, text, color=_LIGHT, fontsize=8, va="center", parse_math=False)
        axes[0].set_axis_off()
        voxels, spacing = volume.read()[channel], spacing_of(volume.affine)
        # Values of a label are few and small beside the levels of an image.
        white = max(1, voxels.max()) if _is_label(volume, channel) else LEVELS[voxels.dtype.name]
        for place, view in zip(axes[1:], VIEWS, strict=True):
            _show(place, voxels, spacing, view, white)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def _is_label(volume: PreparedVolume, channel: int) -> bool:
    return "labels" in volume.header and channel == volume.shape[0] - 1


def _show(axes: Any, voxels: np.ndarray, spacing: np.ndarray, view: str, white: int) -> None:
    cut, letters = VIEWS[view]
    across, up = (spacing[axis] for axis in range(3) if axis != cut)
    axes.imshow(radiological(voxels, view), cmap="gray", vmin=0, vmax=white, aspect=up / across)
    axes.set_axis_off()
    # Beside the picture, not on it: thin stacks would be covered.
    for letter, edge, away in zip(letters, _EDGES, _AWAY, strict=True):
        style = {"color": _LETTER, "fontsize": 8, "fontweight": "bold", "ha": "center", "va": "center"}
        axes.annotate(letter, edge, away, "axes fraction", "offset points", **style)


def _caption(volume: PreparedVolume, channel: int) -> str:
    plan = _plan(volume.header)
    lines = [f"{_voxels(volume.shape)} voxels", f"{_spacing(volume.header)} mm"]
    for rule in plan["intensities"][channel : channel + 1]:
        lines += [f"{rule['kind'].upper()}: {rule['low']:.6g} to {rule['high']:.6g} become 0 to 1"]
    channels = volume.shape[0] - ("labels" in volume.header)
    if _is_label(volume, channel):
        lines.append("label")
    elif channels > 1:
        lines.append(f"channel {channel + 1} of {channels}")
    if plan["body_part"]:
        lines.append(f"rule for {plan['body_part']}")
    return "\n".join([*lines, *plan["warnings"]])


def _plan(header: Mapping[str, Any]) -> dict[str, Any]:
    """What was done, as far as the header says it: a volume without can still be shown."""
    return {"warnings": [], "notes": [], "intensities": [], "body_part": None, **header.get("plan", {})}


def _voxels(shape: Sequence[int]) -> str:
    channels = f"{shape[0]} x " if shape[0] > 1 else ""
    return channels + " x ".join(str(n) for n in shape[1:])


def _spacing(header: Mapping[str, Any]) -> str:
    return " x ".join(f"{mm:.3g}" for mm in spacing_of(np.asarray(header["affine"])))


def _write_beside(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            beside.write_bytes(content)
            patiently(lambda: beside.replace(path))
        finally:
            beside.unlink(missing_ok=True)
