"""Rows of scores and runs as the store records them."""

import numpy as np

from medmim.data.dataset.contamination_certificate import NONE_FOUND
from medmim.tracking.comparison.runs import RunScores

TAGS = {
    "seed": "0",
    "dataset_hash": "d",
    "split_hash": "s",
    "task": "segment",
    "labelled": "10",
    "encoder": "dynunet",
    "dims": "3",
    "size": "16,16,16",
    "batch_size": "2",
    "lr": "0.001",
    "budget": "steps=5",
}


def rows(values, *, label="core", hd95=2.0):
    """One case a patient."""
    return [
        {"case": f"c{n}", "patient": f"p{n}", "label": label, "dice": value, "hd95_mm": hd95}
        for n, value in enumerate(values)
    ]


def run(arm, values, *, run_id="", **tags):
    cases = values if isinstance(values[0], dict) else rows(values)
    tags = {**TAGS, **{key: str(value) for key, value in tags.items()}}
    return RunScores(run_id or f"{arm}{tags['seed']}", arm, tags, tuple(cases), contamination=NONE_FOUND)


def spread(mean, *, n=12, seed=0, sd=0.02):
    return (mean + np.random.default_rng(seed).normal(0, sd, size=n)).tolist()
