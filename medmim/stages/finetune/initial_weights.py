"""The initial weights of an encoder: random, from a pretraining run, or from a weights file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from medmim.config.own_code import trust_settings
from medmim.data.dataset.contamination import (
    Certificate,
    SeenPatients,
    certify,
    read_seen_patients,
    seen_patients_of,
)
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.dataset.partition import Partition, patient_digest
from medmim.errors import RunError
from medmim.tracking.mlflow_store import FINISHED, Store, begins_with
from medmim.training.weights import WEIGHTS, load_weights, weights_metadata

SCRATCH = "scratch"
DIVISION = "division.json"  # digests of the patients of each split, next to the weights
STATUS = "status"  # tag of a registered version
CANDIDATE, CONTROL, FAILED = "candidate", "control", "failed sanity"


@dataclass(frozen=True)
class InitialWeights:
    """Initial weights with their description.

    Attributes:
        arm: name in comparisons.
        weights: tensors by name; empty for scratch.
        description: content of `weights.json`; empty for scratch.
        run_id: id of the pretraining run, where known.
        saw: patients and voxels seen in pretraining, for the certificate; None without a record.
    """

    arm: str = SCRATCH
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    description: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = ""
    saw: SeenPatients | None = None

    def seen(self, volumes: tuple[VolumeRecord, ...]) -> int | None:
        """Return the number of patients of `volumes` that pretraining saw; None without a record."""
        if self.saw is None:
            return None
        return len({patient_digest(volume.subject) for volume in volumes} & self.saw.patients)


def find_initial_weights(
    word: str | None, store: Store, dataset: Dataset, *, encoder: str | None = None
) -> InitialWeights:
    """Return the weights that `--init WORD` refers to.

    Args:
        word: `scratch`, a run id (or the beginning of one), a weights file, or None: the newest finished
            pretraining run on this dataset.
        store: the local store.
        dataset: the dataset of fine-tuning.
        encoder: encoder of the settings; if it is the user's own code, weights may name it too.

    Raises:
        RunError: if there are no such weights.
    """
    trust_settings({"encoder": encoder})
    if word == SCRATCH:
        return InitialWeights(saw=SeenPatients())
    if word is not None and word.endswith(".safetensors"):
        return _read(Path(word))
    if word is not None:
        return _read(weights_of(store, _match(store, word)))
    finished = store.runs(FINISHED, limit=1, stage="pretrain", dataset_hash=dataset.info.content_hash)
    if not finished:
        raise RunError(
            "--init: no finished pretraining run on this dataset; run `medmim pretrain` or use --init scratch"
        )
    return _read(weights_of(store, finished[0].info.run_id))


def certificate_of(dataset: Dataset, divided: Partition, origin: InitialWeights) -> Certificate:
    """Return the patients that pretraining, fine-tuning and normalisation share with the test split."""
    stages = {
        "pretraining": origin.saw,
        "fine-tuning": seen_patients_of((*divided.train, *divided.val)),
        "normalisation": seen_patients_of(divided.train),
    }
    return certify(divided.test, stages, dataset_hash=dataset.info.content_hash, split_hash=divided.digest)


def _match(store: Store, word: str) -> str:
    """Return the id of the only run whose id begins with `word`."""
    matching = [run.info.run_id for run in store.runs(begins_with(word))]
    if len(matching) != 1:
        raise RunError(
            f"--init {word}: expected `scratch`, a .safetensors file or a run id, got something that fits "
            f"{len(matching)} runs; see `medmim ui` for ids"
        )
    return str(matching[0])


def weights_of(store: Store, run_id: str) -> Path:
    """Return the weights of a run: from its checkpoint folder, or from the store for an unpacked study."""
    kept = store.checkpoints(run_id) / WEIGHTS
    return kept if kept.is_file() else store.artifact(store.run(run_id), "model") / WEIGHTS


def _read(path: Path) -> InitialWeights:
    weights, description = load_weights(path)
    return InitialWeights(
        arm=str(description.get("arm", path.stem)),
        weights=weights,
        description=description,
        run_id=str(description.get("run_id", "")),
        saw=_recorded(path),
    )


def patients_seen_by(path: Path) -> SeenPatients | None:
    """Return everything that the training of a fine-tuned model has seen; None without a record.

    Args:
        path: weights. Models of earlier versions list the keys of validation patients in `DIVISION` only.
    """
    seen, division = _recorded(path), path.parent / DIVISION
    if seen and division.is_file():
        validation = json.loads(division.read_text(encoding="utf-8"))["val"]
        seen |= SeenPatients(patients=frozenset(validation))
    return seen


def _recorded(path: Path) -> SeenPatients | None:
    return SeenPatients.from_metadata(weights_metadata(path)) or read_seen_patients(path.parent)
