"""Compare every pretraining method at equal processor minutes with random weights; one row a score.

    python -m tests.benchmarks.method_table --data figshare --task classify --home runs
    python -m tests.benchmarks.method_table --data hippocampus --task segment --home runs \\
        --size 32 --batch-size 2

Each method pretrains with its defaults on the unlabelled training images, then the encoder is fine-tuned on
a few labelled patients and, for images with classes, probed: logistic regression on its frozen features.
Scratch is fine-tuned as long as the others, and a second time for the minutes of both stages. Rows are
appended to docs/results/method_table.csv as they are finished; rows that are there are not run again.
Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import medmim
from medmim.data.dataset.manifest import Dataset
from medmim.methods import METHODS
from medmim.stages.embed import embedding_table
from medmim.stages.run_lifecycle import RunResult
from medmim.training.tasks.trained_model import load_trained_encoder

COLUMNS = ("dataset", "arm", "seed", "measure", "value", "low", "high", "patients", "labelled_patients")
COLUMNS += ("pretrain_minutes", "pretrain_steps", "finetune_minutes", "finetune_steps", "commit")
SCORES = {"classify": "macro_f1", "segment": "dice"}
PROBED_TRAIN, PROBED_TEST = 300, 250
Row = dict[str, Any]


def some_images(dataset: Dataset) -> Dataset:
    """Return a dataset with evenly spaced training and test images that have a class."""
    chosen = []
    for split, most in (("train", PROBED_TRAIN), ("test", PROBED_TEST)):
        volumes = sorted(
            (one for one in dataset.in_split(split) if one.target is not None),  # type: ignore[arg-type]
            key=lambda one: (one.subject, one.id),
        )
        chosen += [volumes[int(place)] for place in np.linspace(0, len(volumes) - 1, min(most, len(volumes)))]
    return Dataset(dataset.root, dataset.info, tuple(chosen))


def linear_probe(weights: Path, dataset: Dataset) -> Row:
    """Return the macro-F1 on test images of logistic regression on frozen features, without an interval."""
    table, _ = embedding_table(load_trained_encoder(weights), some_images(dataset))
    vectors, training = np.stack(table["vector"].to_list()), (table["split"] == "train").to_numpy()
    classes = table["class"].to_numpy()
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    predicted = probe.fit(vectors[training], classes[training]).predict(vectors[~training])
    value = f1_score(classes[~training], predicted, average="macro")
    patients = table.loc[~training, "subject"].nunique()
    return {"measure": "linear probe macro_f1", "value": round(float(value), 4), "patients": int(patients)}


class MethodTable:
    """Trains the arms of one dataset and appends their scores to a table."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.dataset = medmim.open_dataset(given.data)
        self.patch = {"size": given.size} if given.size else {}  # None would count as a choice
        self.batch = {"batch_size": given.batch_size} if given.batch_size else {}
        words = ["git", "rev-parse", "--short", "HEAD"]
        self.commit = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
        known = read_rows(given.out)
        self.done = {(row["dataset"], row["arm"], row["seed"]) for row in known}

    def run(self) -> None:
        """Train what is missing, all arms of one seed first."""
        minutes = self.given.minutes
        for seed in self.given.seeds:
            for arm in self.given.arms or ("scratch", "scratch [equal cost]", *METHODS):
                if (self.given.name, arm, str(seed)) in self.done:
                    continue
                if arm.startswith("scratch"):
                    longer = self.given.pretrain_minutes if "equal" in arm else 0.0
                    rows = [self._finetuned("scratch", seed, minutes + longer)]
                    rows += self._untrained(seed) if arm == "scratch" else []
                else:
                    rows = list(self._pretrained(arm, seed))
                self._append([{"arm": arm, "seed": seed, **row} for row in rows])

    def _pretrained(self, method: str, seed: int) -> Iterator[Row]:
        first = self._pretrain(method, seed, {"minutes": self.given.pretrain_minutes})
        known = {
            "pretrain_minutes": self.given.pretrain_minutes,
            "pretrain_steps": int(first.metrics["last/steps"]),
        }
        yield {**self._finetuned(first.run_id, seed, self.given.minutes), **known}
        if self.given.task == "classify":
            yield {**linear_probe(first.checkpoint, self.dataset), **known}

    def _untrained(self, seed: int) -> Iterator[Row]:
        """Yield the linear probe of random weights of the convolutional encoder and of the transformer."""
        if self.given.task == "classify":
            for method in ("spark", "mae"):
                first = self._pretrain(method, seed, {"steps": 1, "lr": 1e-12})
                row = linear_probe(first.checkpoint, self.dataset)
                yield {**row, "measure": f"{row['measure']}, random weights of {method}"}

    def _pretrain(self, method: str, seed: int, length: Mapping[str, float]) -> RunResult:
        return medmim.pretrain(
            home=self.given.home, data=self.given.data, method=method, seed=seed,
            dims=self.given.dims, time_source="processor", num_evaluations=1, monitors=False, workers=0,
            **self.patch, **length,
        )  # fmt: skip

    def _finetuned(self, init: str, seed: int, minutes: float) -> Row:
        result = medmim.finetune(
            self.given.task, home=self.given.home, data=self.given.data, init=init, seed=seed,
            dims=self.given.dims, minutes=minutes, time_source="processor", num_evaluations=1, workers=0,
            num_labelled=self.given.labelled, **self.patch, **self.batch,
        )  # fmt: skip
        measure = SCORES[self.given.task]
        score = next(row for row in result.scores if row["metric"] == measure)
        return {
            "measure": measure,
            **{key: round(score[key], 4) for key in ("value", "low", "high")},
            "patients": score["patients"],
            "labelled_patients": self.given.labelled,
            "finetune_minutes": minutes,
            "finetune_steps": int(result.metrics["last/steps"]),
        }

    def _append(self, rows: list[Row]) -> None:
        fresh = not self.given.out.is_file()
        with self.given.out.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerows({"dataset": self.given.name, "commit": self.commit, **row} for row in rows)
        for row in rows:
            print(row, flush=True)  # noqa: T201


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="dataset folder of `medmim ingest`")
    parser.add_argument("--task", choices=sorted(SCORES), required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--dims", type=int, choices=(2, 3), help="default: as the dataset")
    parser.add_argument("--size", type=int, help="edge of the patches of both stages; default: the recipe's")
    parser.add_argument("--batch-size", type=int, help="of fine-tuning; default: the recipe's")
    parser.add_argument("--name", help="name of the dataset in the table; default: its folder")
    parser.add_argument("--labelled", type=int, default=10, help="labelled training patients")
    parser.add_argument("--pretrain-minutes", type=float, default=3.0, help="processor minutes")
    parser.add_argument("--minutes", type=float, default=1.0, help="processor minutes of fine-tuning")
    parser.add_argument("--arms", nargs="+", help="default: scratch, scratch [equal cost] and all methods")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path("docs/results/method_table.csv"))
    chosen = parser.parse_args()
    chosen.name = chosen.name or chosen.data.name
    MethodTable(chosen).run()
