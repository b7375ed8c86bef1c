"""How pages and pictures look: matplotlib's style, figures as PNG or as SVG inside a page, templates.

Pages load nothing: style and pictures are in the file, and their content policy forbids anything else.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from VoCoCore.runs import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, RULE = "#1b2733", "#c3ccd5"
# Okabe and Ito's colours, told apart with any colour vision; what they mark has a letter or a dash besides.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#f0e442")
STYLE: dict[str, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # names of labels and cases may hold dollar signs
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "hatch.linewidth": 0.6,
}
# The ink becomes a variable of the page, so that a picture follows its light or dark colours.
_PAGE_COLOURS = {INK: "var(--ink)", RULE: "var(--rule)"}
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


def styled() -> AbstractContextManager[None]:
    """Draw with our style for the length of a block."""
    from matplotlib import rc_context

    return rc_context(cast(Any, STYLE))


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG on white, 150 dots an inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()


def svg_text(figure: Figure, name: str, description: str) -> str:
    """The figure as an SVG element for the inside of a page; ``name`` keeps its ids apart from others'.

    Text stays text (selectable, read aloud), the background is the page's, ``description`` says what is seen.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    width, height = (float(v) for v in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    head = f'<svg role="img" aria-label="{_attribute(description)}" viewBox="0 0 {width:g} {height:g}">'
    svg = head + svg[svg.index(">") + 1 :]
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", svg)
    svg = re.sub(r'(xlink:href="#|\bid="|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace("xlink:href", "href")


def render(template: str, **values: Any) -> str:
    """A page from a template beside this file; every value is escaped, except the pictures made here."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).with_name("templates")
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = Markup
    return environment.get_template(template).render(**values)


def write_whole(path: Path, content: bytes) -> Path:
    """Write beside and rename: whoever reads ``path`` sees the old file or the new one, never a part.

    Raises EnvironmentFault where it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        files.move(beside, path)
    return path


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
