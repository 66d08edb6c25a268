"""Compare overlapping regions (sigmoid) with exclusive classes (softmax) on generated nested tumours.

python -m tests.benchmarks.nested_regions --out docs/results/nested_regions.json

Both are trained for the same number of steps and scored on the same regions of the test patients.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.stages.finetune.run import finetune
from medmim.stages.ingest import ingest
from medmim.training.evaluation.inference import labels_of, segment
from medmim.training.evaluation.score_segmentations import compare_labels, mean_scores
from medmim.training.tasks.trained_model import load_trained_model

_SHAPE = (32, 32, 24)
_NAMES = {1: "edema", 2: "necrosis", 3: "enhancing"}
_REGIONS = (("whole", (1, 2, 3)), ("core", (2, 3)), ("active", (3,)))
_SHOWN = ("dice_whole", "dice_core", "dice_active", "hd95_mm_whole", "hd95_mm_core", "hd95_mm_active")


def write_nested_tumours(folder: Path, *, patients: int = 40, seed: int = 0) -> None:
    """Write nested balls of weak contrast in noise, in the layout of the Medical Segmentation Decathlon."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in _SHAPE), indexing="ij"), axis=-1)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(patients):
        image, label = rng.normal(100, 20, _SHAPE), np.zeros(_SHAPE, dtype=np.uint8)
        centre, radius = np.array(_SHAPE) / 2 + rng.uniform(-4, 4, 3), rng.uniform(6, 9)
        for code, (share, brighter) in enumerate(((1.0, 20), (0.65, -30), (0.35, 60)), start=1):
            inside = ((grid - centre) ** 2).sum(axis=-1) < (share * radius) ** 2
            image[inside] += brighter
            label[inside] = code
            centre = centre + rng.uniform(-1, 1, 3)
        for kind, values in (("imagesTr", image.astype(np.float32)), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / kind / f"scan_{number:03d}.nii.gz")


def region_scores(checkpoint: Path, data: Path) -> dict[str, float]:
    """Return the mean Dice and HD95 of the regions over the test patients."""
    trained = load_trained_model(checkpoint)
    context, rows = trained.context(data), []
    for case in read_dataset(data).in_split("test"):
        prepared = context.volumes(case)
        assert prepared.label is not None
        classes = len(trained.names) + 1
        found = segment(
            trained.network, prepared, trained.plan, precision="fp32", mirror=True, classes=classes
        )
        labels = labels_of(found, trained.plan.regions)[None]
        scores = compare_labels(
            labels, prepared.label.long(), (1.0, 1.0, 1.0), volume=case, names=_NAMES, regions=_REGIONS
        )
        rows += [score.row() for score in scores]
    return mean_scores(rows)


def compare(
    *, steps: int, seeds: Sequence[int], patients: int = 40, patients_seed: int = 0
) -> dict[str, Any]:
    """Return the scores of both kinds of training for each seed, and the means."""
    runs: dict[str, list[dict[str, float]]] = {"regions": [], "classes": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_nested_tumours(folder / "source", patients=patients, seed=patients_seed)
        data, home = folder / "data", folder / "home"
        ingest(folder / "source", data, home=home, label_names=_NAMES, workers=1)
        for seed in seeds:
            for kind, found in runs.items():
                regions = dict(_REGIONS) if kind == "regions" else {}
                settings = FinetuneSettings(
                    data=data, task="segment", init="scratch", seed=seed, steps=steps, regions=regions,
                    size=(24,), encoder="dynunet", encoder_options={"filters": [8, 16, 32]}, batch_size=2,
                    workers=0, num_evaluations=1, augment="light", lr=3e-3,
                )  # fmt: skip
                begun = time.process_time()
                result = finetune(settings, home=home, log=lambda line: None)
                minutes = {"processor_minutes": (time.process_time() - begun) / 60}
                scores = region_scores(result.checkpoint, data)
                found.append({key: round(value, 4) for key, value in (scores | minutes).items()})
                shown = {key: found[-1].get(key) for key in (*_SHOWN, "processor_minutes")}
                print(seed, kind, shown, flush=True)  # noqa: T201
        tested = len({case.subject for case in read_dataset(data).in_split("test")})
    means = {
        kind: {
            key: round(float(np.mean([one[key] for one in found if key in one])), 4)
            for key in _SHOWN
            if any(key in one for one in found)
        }
        for kind, found in runs.items()
    }
    given = {"steps": steps, "seeds": list(seeds), "patients_seed": patients_seed, "test_patients": tested}
    return {**given, "means": means, "runs": runs}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--patients-seed", type=int, default=0, help="Seed of the generated patients.")
    given = parser.parse_args()
    result = compare(steps=given.steps, seeds=given.seeds, patients_seed=given.patients_seed)
    given.out.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n", encoding="utf-8")
