"""Make the pictures of the README and the documentation from what the program itself draws.

    .venv/bin/python docs/make_pictures.py

Runs the demonstration (minutes), draws the crops of one of its volumes at the published size, and photographs its
report with a headless browser (chromium, chrome or edge).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from VoCoCore.cli.console import listener
from VoCoCore.demo import demonstrate
from VoCoCore.evaluation.preview import draw_preview
from VoCoCore.presets import resolve_pretrain

PICTURES = Path(__file__).resolve().parent / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1250")


def make_pictures(folder: Path) -> None:
    """Write crops.png and report.png; what is needed on the way goes to ``folder``."""
    made = demonstrate(folder, {}, [listener()])
    volume = min((folder / "cohort" / "imagesTr").iterdir())
    draw_preview(volume, resolve_pretrain(options={"preset": "base", "recipe": "v1"}), PICTURES / "crops.png")
    photograph(made.report, PICTURES / "report.png")


def photograph(page: Path, picture: Path) -> None:
    """The top of a page, as a browser shows it."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"no browser to photograph {page.name} with (one of {', '.join(BROWSERS)})")
    subprocess.run(
        [browser, *FLAGS, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        make_pictures(Path(scratch))
