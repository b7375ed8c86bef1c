"""report.html of a fine-tuning: scores, curves for each class, the worst, median and best case beside the reference."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from VoCoCore.data.patients import cases_of
from VoCoCore.errors import counted
from VoCoCore.evaluation.case_pictures import kept_pictures, legend
from VoCoCore.evaluation.finetune_curves import DESCRIPTION, class_names, finetune_figure
from VoCoCore.evaluation.pages import render, svg_text, write_whole
from VoCoCore.evaluation.run_page import RunPage
from VoCoCore.evaluation.verdict import Verdict, number, percent

FEW_PATIENTS = 5


def write_finetune_report(run_folder: str | Path) -> Path:
    """Write ``report.html`` into the run ``run_folder`` and return its path; at any time, as `write_report`.

    Raises SettingsError where there is no run, EnvironmentFault where the file cannot be written.
    """
    page = RunPage.open(run_folder)
    figure = finetune_figure(page.events)
    text = render(
        "finetune.html.j2",
        title="VoCo fine-tuning report",
        usual="task and protocol",
        words=_words(page),
        facts=[*page.progress_facts(), *_scores(page), *page.work_facts()],
        verdict=judge(page.latest("val"), page.latest("test"), page.active, _twins(page)),
        curves="" if figure is None else svg_text(figure, "curves", DESCRIPTION),
        classes=_class_table(page),
        plan=[
            e["text"] for e in page.events if e["type"] == "stage" and e.get("name") in ("plan", "weights")
        ],
        **_pictures(page.run.validation / "latest.npz"),
        **page.common(),
    )
    return write_whole(page.run.path / "report.html", text.encode(errors="replace"))


def judge(
    val: Mapping[str, Any] | None, test: Mapping[str, Any] | None, active: bool, twins: int = 0
) -> Verdict:
    """What the scores say, in a title and a text; ``twins``: held-out cases whose images are in another split too."""
    if val is None and test is None:
        words = (
            "Validation cases are looked at every so many steps."
            if active
            else "It ended before the first look."
        )
        return Verdict("note", "No scores yet", words)
    shown, where = (test, "test") if test else (val or {}, "validation")
    if not {"dice", "balanced_accuracy"} & shown.keys():
        why = "The warnings say why; where there are none, no case has any of the labels."
        return Verdict("bad", f"None of the {where} cases could be scored", why)
    name = "dice" if "dice" in shown else "balanced_accuracy"
    title = f"{'Mean Dice' if name == 'dice' else 'Balanced accuracy'} {percent(number(shown, name))} on {where} cases"
    count = number(shown, "cases")
    patients = number(shown, "patients") if "patients" in shown else count
    text = cases_of(int(count), int(patients)) if isfinite(count) else "Cases"
    low, high = number(shown, f"{name}_low"), number(shown, f"{name}_high")
    text += f", 95 % interval {percent(low)} to {percent(high)}." if isfinite(low) else "."
    if where == "validation":
        text += " The state that is kept was chosen by these very cases, so new cases may score lower."
    elif not twins:
        text += " None of these cases was looked at before the end."
    if twins:
        same = counted(twins, "held-out case", "has", "have")
        text += f" But {same} the same images as a case of another split, so scores flatter."
    if patients < FEW_PATIENTS:
        text += f" So few {'cases' if patients == count else 'patients'} say little."
    return Verdict("good" if where == "test" or not active else "note", title, text)


def _twins(page: RunPage) -> int:
    data = page.environment.get("data") if isinstance(page.environment, dict) else None
    found = data.get("twins") if isinstance(data, dict) else 0
    return found if isinstance(found, int) else 0


def _words(page: RunPage) -> list[str]:
    names = {"task": "", "protocol": "protocol ", "model.encoder": "encoder "}
    words = [f"{word}{page.settings[name]}" for name, word in names.items() if page.settings.get(name)]
    own = page.environment.get("finetune", {}) if isinstance(page.environment, dict) else {}
    return [*words, f"started from {own['init']}"] if own.get("init") else words


def _scores(page: RunPage) -> list[tuple[str, str, str]]:
    facts = []
    for split, word in (("val", "validation"), ("test", "test")):
        values = page.latest(split) or {}
        name = "dice" if "dice" in values else "balanced_accuracy"
        if name in values:
            low, high = number(values, f"{name}_low"), number(values, f"{name}_high")
            note = f"95 %: {percent(low)} to {percent(high)}" if isfinite(low) else ""
            title = "Dice" if name == "dice" else "balanced accuracy"
            facts.append((f"{title}, {word}", percent(number(values, name)), note))
    return facts


def _class_table(page: RunPage) -> dict[str, Any]:
    """Scores of each class at the last look, and on test cases where there are any."""
    val, test = page.latest("val") or {}, page.latest("test") or {}
    names = class_names(page.events)
    prefix = "dice_" if "dice" in {**val, **test} else "auroc_"
    header = ["class", "validation", *(["test"] if test else [])]
    rows = []
    for name in names:
        values = [number(split, prefix + name) for split in ((val, test) if test else (val,))]
        rows.append([name, *(percent(value) if isfinite(value) else "–" for value in values)])
    return {"header": header, "rows": rows, "what": "Dice" if prefix == "dice_" else "AUROC"}


def _pictures(path: Path) -> dict[str, Any]:
    """What the last look kept; nothing without a whole file."""
    empty: dict[str, Any] = {"pictures": [], "legend": [], "seen_at": 0, "confusion": None}
    try:
        with np.load(path, allow_pickle=False) as kept:
            step = int(kept["step"])
            if "probabilities" in kept:
                return {**empty, "seen_at": step, "confusion": _confusion(kept)}
            pictures = [
                {
                    "title": f"{shown['word']} case, Dice {percent(shown['score'])}",
                    "picture": svg_text(shown["figure"], f"case{place}", f"{shown['word']} case"),
                }
                for place, shown in enumerate(kept_pictures(kept))
            ]
            return {**empty, "pictures": pictures, "legend": legend(kept), "seen_at": step}
    except (OSError, ValueError, LookupError, EOFError, BadZipFile, zlib.error):
        return empty


def _confusion(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Cases by true class (rows) and predicted class (columns)."""
    names = [str(name) for name in kept["names"]]
    table = np.zeros((len(names), len(names)), int)
    np.add.at(table, (kept["targets"], kept["probabilities"].argmax(1)), 1)
    return {
        "header": ["true \\ predicted", *names],
        "rows": [[n, *map(str, r)] for n, r in zip(names, table, strict=True)],
    }


def result_of(run: str | Path) -> dict[str, float]:
    """The last scores of a fine-tuning: those of its test cases, or else of its validation cases."""
    page = RunPage.open(run)
    return dict(page.latest("test") or page.latest("val") or {})
