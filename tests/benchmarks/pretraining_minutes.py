"""Fine-tuned score against the length of pretraining: one pretraining a length, several fine-tunings of each.

    python -m tests.benchmarks.pretraining_minutes --data hippo --home runs --minutes 0 5 15 60 180

Length 0 is random weights. Every fine-tuning has the same number of steps: on a busy machine equal processor
minutes are not equal steps. The seeds of a length share its pretraining: their spread is that of fine-tuning.
`--label-fraction`, `--finetune-steps` and `--encoder-lr` (0: the encoder is frozen, only the decoder learns)
choose another curve, of the same pretrainings. Rows are appended to docs/results/pretraining_minutes.csv as
they are finished; rows that are there are not run again, and a finished pretraining of the same length in
that home is not repeated. `--picture FILE.png` draws the table. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

import medmim

Row = dict[str, Any]

COLUMNS = ("dataset", "pretrain_minutes", "pretrain_steps", "seed", "dice", "low", "high", "patients")
COLUMNS += ("label_fraction", "finetune_steps", "encoder_lr", "commit")


class Curve:
    """Pretrains for each length and appends the scores of the fine-tunings to a table."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        words = ["git", "rev-parse", "--short", "HEAD"]
        self.commit = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
        known = pd.read_csv(given.out) if given.out.is_file() else pd.DataFrame(columns=COLUMNS)
        same = known[same_curve(known, given)]
        self.done = set(zip(same["pretrain_minutes"], same["seed"], strict=True))

    def run(self) -> None:
        """Train what is missing, the shortest pretraining first."""
        for minutes in sorted(self.given.minutes):
            missing = [seed for seed in self.given.seeds if (minutes, seed) not in self.done]
            if not missing:
                continue
            init, steps = self._encoder(minutes)
            for seed in missing:
                row = {"pretrain_minutes": f"{minutes:g}", "pretrain_steps": steps, "seed": seed}
                self._append({**row, **self._finetuned(init, seed)})

    def _encoder(self, minutes: float) -> tuple[str, int]:
        """Return what fine-tuning starts from and the steps of its pretraining."""
        known = self.given.home / f"pretraining-{minutes:g}-minutes.csv"
        if minutes == 0:
            return "scratch", 0
        if not known.is_file():
            run = medmim.pretrain(
                home=self.given.home, data=self.given.data, method="spark", mask="mesh", ratio=0.7, seed=0,
                minutes=minutes, time_source="processor", num_evaluations=1, monitors=False,
            )  # fmt: skip
            known.write_text(f"{run.run_id},{int(run.metrics['last/steps'])}\n", encoding="utf-8")
        run_id, steps = known.read_text(encoding="utf-8").strip().split(",")
        return run_id, int(steps)

    def _finetuned(self, init: str, seed: int) -> Row:
        result = medmim.finetune(
            "segment", home=self.given.home, data=self.given.data, init=init, seed=seed,
            steps=self.given.finetune_steps, num_evaluations=2, label_fraction=self.given.label_fraction,
            encoder_lr=self.given.encoder_lr,
        )  # fmt: skip
        score = next(row for row in result.scores if row["metric"] == "dice")
        return {
            "dice": round(score["value"], 4),
            **{key: round(score[key], 4) for key in ("low", "high")},
            "patients": score["patients"],
            "label_fraction": self.given.label_fraction,
            "finetune_steps": self.given.finetune_steps,
            "encoder_lr": self.given.encoder_lr,
        }

    def _append(self, row: Row) -> None:
        whole = {"dataset": self.given.data.name, "commit": self.commit, **row}
        table = pd.DataFrame([whole], columns=COLUMNS)
        table.to_csv(self.given.out, mode="a", header=not self.given.out.is_file(), index=False)
        print(row, flush=True)  # noqa: T201


def same_curve(table: pd.DataFrame, given: argparse.Namespace) -> pd.Series:
    """Return which rows have the chosen label fraction, steps and learning rate of the encoder."""
    chosen = {name: getattr(given, name) for name in ("label_fraction", "finetune_steps", "encoder_lr")}
    return (table[list(chosen)] == pd.Series(chosen)).all(axis=1)


def draw(table: pd.DataFrame, picture: Path) -> None:
    """Draw every fine-tuning, and the mean with the mean interval over patients, against the minutes."""
    scores = table.groupby("pretrain_minutes")["dice"].apply(list)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    places = [place for place, found in enumerate(scores) for _ in found]
    axes.plot(places, scores.explode(), "o", color="0.6", label="one fine-tuning")
    means = table.groupby("pretrain_minutes")[["dice", "low", "high"]].mean()
    reach = [means["dice"] - means["low"], means["high"] - means["dice"]]
    label = "mean, 95 % interval over patients"
    axes.errorbar(range(len(means)), means["dice"], yerr=reach, fmt="-s", capsize=4, label=label)
    axes.set_xticks(range(len(scores)), [f"{minutes:g}" for minutes in scores.index])
    axes.set_xlabel("minutes of pretraining (processor time)")
    axes.set_ylabel("mean Dice of the test patients")
    figure.legend(loc="outside upper center", ncols=2)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="dataset folder of `medmim ingest`")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[0, 5, 15, 60, 180], help="processor minutes"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--label-fraction", type=float, default=0.075)
    parser.add_argument("--finetune-steps", type=int, default=800)
    parser.add_argument("--encoder-lr", type=float, default=1.0, help="relative to the decoder's")
    parser.add_argument("--out", type=Path, default=Path("docs/results/pretraining_minutes.csv"))
    parser.add_argument("--picture", type=Path, help="PNG file to draw the table to")
    chosen = parser.parse_args()
    Curve(chosen).run()
    if chosen.picture:
        rows = pd.read_csv(chosen.out)
        draw(rows[same_curve(rows, chosen)], chosen.picture)
