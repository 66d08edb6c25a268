"""Compare training on labels with unusual codes with training on the same labels written 1, 2, 3.

    python -m tests.benchmarks.label_kinds --generator label_kinds.py --out docs/results/label_kinds.csv

The generator is called with the name of a kind and a folder, and writes a dataset in the layout of the
Medical Segmentation Decathlon. Each pair of trainings has the same images, seeds and number of steps.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medmim.config.runs import FinetuneSettings
from medmim.stages.evaluate.prediction_source import EvaluationOptions
from medmim.stages.evaluate.run import evaluate
from medmim.stages.finetune.run import finetune
from medmim.stages.ingest import ingest
from medmim.training.tasks.trained_model import load_trained_model

Recode = Callable[[np.ndarray], np.ndarray]
COLUMNS = ("kind", "seed", "steps", "test_patients", "dice_plain", "dice_kind", "difference")
_GENERATED = ("simple", "gaps", "freesurfer", "ignore")
_IGNORED = 255


@dataclass(frozen=True)
class Kind:
    """Labels that are compared with plain ones.

    Attributes:
        source: kind of the generator.
        recode: maps its label values to those of this kind.
        plain: kind of the generator whose values, renumbered from 1, are the plain labels.
        plain_recode: applied to the plain labels before they are renumbered.
        ignore_label: as for `ingest`.
    """

    source: str
    recode: Recode = np.asarray
    plain: str | None = None
    plain_recode: Recode = np.asarray
    ignore_label: int | None = None


def _foreground(label: np.ndarray) -> np.ndarray:
    return label > 0


KINDS = {
    "gaps: 85, 170, 255": Kind("gaps"),
    "FreeSurfer: 17, 53, 1035": Kind("freesurfer"),
    "masks: 0, 255": Kind("gaps", lambda label: (label > 0) * 255, plain_recode=_foreground),
    "half of each volume not annotated: 255": Kind("ignore", plain="simple", ignore_label=_IGNORED),
}


def renumbered(label: np.ndarray) -> np.ndarray:
    """Return the label with its values replaced by 0, 1, 2, … in their order."""
    return np.unique(label, return_inverse=True)[1].reshape(label.shape)


def write_kind(source: Path, target: Path, recode: Recode) -> None:
    """Copy a generated dataset with recoded labels."""
    for name in ("imagesTr", "labelsTr"):
        (target / name).mkdir(parents=True)
        for path in sorted((source / name).iterdir()):
            image = nib.load(path)
            values = np.asarray(image.dataobj)
            values = recode(values).astype(np.uint16) if name == "labelsTr" else values
            nib.save(nib.Nifti1Image(values, image.affine), target / name / path.name)


def train(data: Path, home: Path, *, seed: int, steps: int) -> Path:
    """Train a small network from scratch and return its weights file."""
    settings = FinetuneSettings(
        data=data, task="segment", init="scratch", seed=seed, steps=steps, size=(24, 24, 24),
        encoder="dynunet", encoder_options={"filters": [8, 16, 32]}, batch_size=2, workers=0,
        num_evaluations=1, augment="light", lr=3e-3,
    )  # fmt: skip
    return finetune(settings, home=home, log=lambda line: None).checkpoint


def score(model: Path, data: Path, home: Path) -> dict[str, float]:
    """Return the Dice over the test patients, and their number."""
    names = load_trained_model(model).names.values()
    options = EvaluationOptions(model=str(model), label_map=[f"{name}={name}" for name in names])
    result = evaluate(data, home / "evaluation", options, home=home, log=lambda line: None)
    [dice] = [row for row in result.groups[0].scores if row["metric"] == "dice"]
    return {"dice": float(dice["value"]), "patients": int(dice["patients"])}


def compared(generator: Path, *, steps: int, seeds: int, words: str = "") -> Iterator[dict[str, Any]]:
    """Yield a row for each kind whose name contains `words`, and each seed."""
    with tempfile.TemporaryDirectory() as place:
        folder, home = Path(place), Path(place) / "home"
        plain_models: dict[tuple[str, int], Path] = {}
        for name in _GENERATED:
            subprocess.run([sys.executable, generator, name, folder / name], check=True)
        for number, (name, kind) in enumerate(KINDS.items()):
            if words not in name:
                continue
            data, plain = (folder / f"{part}{number}" for part in ("data", "plain"))
            write_kind(folder / kind.source, folder / f"kind{number}", kind.recode)
            ingest(folder / f"kind{number}", data, home=home, workers=1, ignore_label=kind.ignore_label)
            source, recode = kind.plain or kind.source, kind.plain_recode
            write_kind(folder / source, folder / f"same{number}", lambda a, r=recode: renumbered(r(a)))  # type: ignore[misc]
            content = ingest(folder / f"same{number}", plain, home=home, workers=1).content_hash
            for seed in range(seeds):
                if (content, seed) not in plain_models:
                    plain_models[content, seed] = train(plain, home, seed=seed, steps=steps)
                models = plain_models[content, seed], train(data, home, seed=seed, steps=steps)
                for where, tests in targets(kind, data, plain):
                    scores = [score(*one, home) for one in zip(models, tests, strict=True)]
                    expected, found = (one["dice"] for one in scores)
                    yield {
                        "kind": f"{name}{where}", "seed": seed, "steps": steps,
                        "test_patients": scores[0]["patients"], "dice_plain": round(expected, 4),
                        "dice_kind": round(found, 4), "difference": round(found - expected, 4),
                    }  # fmt: skip


def targets(kind: Kind, data: Path, plain: Path) -> list[tuple[str, tuple[Path, Path]]]:
    """Return the datasets that test the model of plain labels and that of the kind, with a remark."""
    if kind.ignore_label is None:
        return [("", (plain, data))]
    return [(", tested where annotated", (data, data)), (", tested on complete labels", (plain, plain))]


def main() -> None:
    """Write the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="words in the name of the kind")
    given = parser.parse_args()
    with given.out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in compared(given.generator, steps=given.steps, seeds=given.seeds, words=given.only):
            writer.writerow(row)
            stream.flush()


if __name__ == "__main__":
    main()
