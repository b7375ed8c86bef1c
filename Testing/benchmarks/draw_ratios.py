"""Draw the ratios of bench.json as bars beside the baseline's 1: python Testing/benchmarks/draw_ratios.py bench.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    """Write bench.png beside the file."""
    path = Path(sys.argv[1])
    rows = [row for row in json.loads(path.read_text(encoding="utf-8")) if row["ratio"]]
    figure, axes = plt.subplots(figsize=(11, 0.8 + 0.28 * len(rows)), layout="constrained")
    ratios = [row["ratio"] for row in rows]
    axes.barh(range(len(rows)), ratios, color=["#2a7f62" if ratio >= 1 else "#b5532a" for ratio in ratios])
    for place, ratio in enumerate(ratios):
        axes.text(ratio, place, f" {ratio:.2f}", va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("baseline / ours (1: equal; to the right, ours is better)")
    figure.savefig(path.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
