"""Train one recipe for a number of processor minutes and append its test scores to docs/results/recipe.csv.

    python -m tests.benchmarks.recipe --data figshare --task segment --minutes 7 --label "narrow, 128²" \
        --set augment=light

Every row has the commit, the settings that differ from the recipe, seed, steps and the 95 % interval over
test patients. One core: set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("dataset", "task", "label", "commit", "settings", "seed", "minutes", "steps", "metric", "value")
COLUMNS += ("low", "high", "patients")
METRICS = {
    "segment": ("dice", "dice_present", "dice_any"),
    "classify": ("macro_f1", "balanced_accuracy"),
    "detect": ("ap50", "ap50_any", "f1"),
}


def rows_of(answer: Mapping[str, Any], **known: Any) -> list[dict[str, Any]]:
    """Return one row for each metric of the task.

    Args:
        answer: what `medmim finetune --json` prints.
        known: further columns.
    """
    metrics = answer["metrics"]
    length = {"minutes": round(metrics["last/minutes"], 1), "steps": int(metrics["last/steps"])}
    scores = {row["metric"]: row for row in answer["scores"]}
    return [
        {
            **known,
            **length,
            "metric": name,
            **{key: round(scores[name][key], 4) for key in ("value", "low", "high")},
            "patients": scores[name]["patients"],
        }
        for name in METRICS[known["task"]]
        if name in scores and scores[name]["low"] is not None
    ]


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows to a table; a new table gets a header."""
    fresh = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Train, or read the answer of a training, and append its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="dataset folder of `medmim ingest`")
    parser.add_argument("--task", choices=sorted(METRICS), required=True)
    parser.add_argument("--minutes", type=float, required=True, help="processor minutes")
    parser.add_argument("--label", required=True, help="name of the row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--answer", type=Path, help="answer of a finished training instead of a new one")
    parser.add_argument("--commit", help="commit of a finished training")
    parser.add_argument("--out", type=Path, default=Path("docs/results/recipe.csv"))
    chosen = parser.parse_args()
    settings = [f"seed={chosen.seed}", "time_source=processor", f"minutes={chosen.minutes:g}", *chosen.set]
    words = [sys.executable, "-m", "medmim", "finetune", chosen.task, "--data", str(chosen.data), "--json"]
    words += ["--init", "scratch", *(word for one in settings for word in ("--set", one))]
    if chosen.answer:
        text = chosen.answer.read_text(encoding="utf-8")
    else:
        text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    head = ["git", "rev-parse", "--short", "HEAD"]
    commit = chosen.commit or subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()
    known = {"dataset": chosen.data.name, "task": chosen.task, "label": chosen.label, "seed": chosen.seed}
    append(chosen.out, rows_of(json.loads(text), **known, commit=commit, settings=" ".join(chosen.set)))


if __name__ == "__main__":
    main()
