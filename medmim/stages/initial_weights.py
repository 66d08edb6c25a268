"""The initial weights of an encoder: random, from a run, from a file of medmim, or from a public file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medmim import files
from medmim.config.own_code import trust_settings
from medmim.config.runs import RunSettings
from medmim.config.value_types import InitMap
from medmim.data.dataset.contamination_certificate import (
    Certificate,
    SeenPatients,
    certify,
    read_seen_patients,
    seen_patients_of,
)
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.dataset.splits import Partition, patient_digest
from medmim.encoders import Encoder, build_encoder
from medmim.encoders.families import FAMILIES
from medmim.encoders.nnunet_weights import residual_encoder
from medmim.encoders.public_weights import PublicWeights, family_of_rules, read_content, recognise, tensors_of
from medmim.errors import RunError
from medmim.heads import Transfer, transfer
from medmim.heads.transfer import PREFIX, stem_change
from medmim.methods import Method
from medmim.randomness import stream_seed
from medmim.text_formats import parse_json
from medmim.tracking.mlflow_store import FINISHED, Store
from medmim.tracking.run_ids import INIT, ORIGIN, RunOption
from medmim.training.weights import WEIGHTS, load_weights, weights_metadata

SCRATCH = "scratch"
DIVISION = "division.json"  # digests of the patients of each split, next to the weights
STATUS = "status"  # tag of a registered version
_WEIGHTS_OF = RunOption("load_encoder", "a .safetensors file or ")
_NEWEST = 3
_SEARCHED = 50  # newest runs, among which one of this store is preferred to those of packs
CANDIDATE, CONTROL, FAILED = "candidate", "control", "failed sanity"


@dataclass(frozen=True)
class InitialWeights:
    """Initial weights with their description.

    Attributes:
        weights: tensors by name; empty for scratch.
        description: content of `weights.json`, or what a public file shows of it; empty for scratch.
        run_id: id of the pretraining run, where known.
        saw: patients and voxels seen in pretraining, for the certificate; None without a record.
        lineage: runs and files that the weights come from, newest first.
        public: names of a public file; None for weights of medmim.
    """

    arm: str = SCRATCH
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    description: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = ""
    saw: SeenPatients | None = None
    lineage: tuple[str, ...] = ()
    public: PublicWeights | None = None

    def seen(self, volumes: tuple[VolumeRecord, ...]) -> int | None:
        """Return the number of patients of `volumes` that pretraining saw; None without a record."""
        if self.saw is None:
            return None
        return len({patient_digest(volume.subject) for volume in volumes} & self.saw.patients)


def initial_weights_of(settings: RunSettings, store: Store, dataset: Dataset) -> InitialWeights:
    """Return the weights that `init` of the settings refers to.

    This is `scratch`, a run id (or the beginning of one), a weights file of any origin, or None: the newest
    finished pretraining run on this dataset. An encoder that is the user's own code may be named by weights
    too, and `init_map` names the tensors of a public file that is not recognised by itself.

    Raises:
        RunError: if there are no such weights.
        TransferError: if a file is of no known network.
    """
    word = settings.init
    trust_settings({"encoder": settings.encoder})
    if word == SCRATCH:
        return InitialWeights(saw=SeenPatients())
    if word is not None and files.names_weights_file(word):
        return read_weights_file(Path(word), settings.init_map)
    if word is not None:
        return _read(weights_of(store, store.named(word, INIT).info.run_id))
    wanted = dataset.info.content_hash
    of_several = f"tags.dataset_hashes LIKE '%{wanted}%'"
    finished = store.runs(FINISHED, limit=_SEARCHED, stage="pretrain", dataset_hash=wanted) or store.runs(
        FINISHED, of_several, limit=_SEARCHED, stage="pretrain"
    )
    finished = [run for run in finished if ORIGIN not in run.data.tags] or finished
    if not finished:
        raise RunError(f"--init: no finished pretraining run on this dataset; {_others(store)}")
    return _read(weights_of(store, finished[0].info.run_id))


def _others(store: Store) -> str:
    """Return what `--init` can be instead: the newest pretrainings on other datasets, or nothing."""
    newest = store.runs(FINISHED, limit=_NEWEST, stage="pretrain")
    if not newest:
        return "run `medmim pretrain` or use --init scratch"
    said = [
        f"--init {run.info.run_id[:8]} ({run.data.tags.get('arm')}, on {run.data.tags.get('dataset')})"
        for run in newest
    ]
    return f"use {', '.join(said)} of another dataset, --init scratch, or run `medmim pretrain`"


def named_weights(word: str, store: Store) -> InitialWeights:
    """Return the weights of a file of medmim, or of a run by the beginning of its id."""
    named = word.endswith(".safetensors")
    return _read(Path(word) if named else weights_of(store, store.named(word, _WEIGHTS_OF).info.run_id))


def pretrained_encoder(origin: InitialWeights) -> Encoder:
    """Build the encoder that weights describe, and load them."""
    try:
        name, options = origin.description["encoder"], origin.description["encoder_options"]
        dims, channels = origin.description["spatial_dims"], origin.description["in_channels"]
    except KeyError as error:
        raise RunError(f"weights '{origin.arm}': their description lacks {error}") from error
    encoder = build_encoder(name, spatial_dims=dims, in_channels=channels, **options)
    transfer(encoder, origin.weights)
    return encoder.eval()


def certificate_of(dataset: Dataset, divided: Partition, origin: InitialWeights) -> Certificate:
    """Return the patients that pretraining, fine-tuning and normalisation share with the test split."""
    stages = {
        "pretraining": origin.saw,
        "fine-tuning": seen_patients_of((*divided.train, *divided.val)),
        "normalisation": seen_patients_of(divided.train),
    }
    return certify(divided.test, stages, dataset_hash=dataset.info.content_hash, split_hash=divided.digest)


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
        lineage=(str(description.get("run_id", path.name)), *description.get("lineage", ())),
    )


def patients_seen_by(path: Path) -> SeenPatients | None:
    """Return everything that the training of a fine-tuned model has seen; None without a record.

    Args:
        path: weights. Models of earlier versions list the keys of validation patients in `DIVISION` only.
    """
    seen, division = _recorded(path), path.parent / DIVISION
    if seen and division.is_file():
        try:
            validation = parse_json(division.read_text(encoding="utf-8"))["val"]
            seen |= SeenPatients(patients=frozenset(validation))
        except (ValueError, KeyError, TypeError):
            return None  # damaged: unknown
    return seen


def _recorded(path: Path) -> SeenPatients | None:
    return SeenPatients.from_metadata(weights_metadata(path)) or read_seen_patients(path.parent)


def read_weights_file(path: Path, rules: InitMap | None) -> InitialWeights:
    """Read a file of medmim, which has a description next to it, or a public one, without executing code."""
    own = path.suffix == ".safetensors" and path.is_file() and rules is None
    if own and (path.with_suffix(".json").is_file() or SeenPatients.from_metadata(weights_metadata(path))):
        return _read(path)
    content = read_content(path)
    families = (residual_encoder(content), *FAMILIES)
    if rules is not None:
        families = (family_of_rules(rules.encoder, rules.encoder_options, rules.keys),)
    public = recognise(tensors_of(content, path), families)
    return InitialWeights(
        arm=path.stem,
        weights=public.weights,
        description={
            "arm": path.stem,
            "encoder": public.encoder,
            "encoder_options": dict(public.options),
            **({"spatial_dims": public.spatial_dims} if public.spatial_dims else {}),
        },
        lineage=(f"{path.name} ({public.family}, SHA-256 {files.sha256_of(path)[:12]})",),
        public=public,
    )


def initialised_encoder(
    settings: RunSettings,
    origin: InitialWeights,
    dims: int,
    log: Callable[[str], None],
    *,
    default: str,
) -> tuple[Encoder, Transfer | None, dict[str, Any]]:
    """Return the encoder of a run, how its weights were transferred, and the settings that describe it.

    Name and options are the user's, else those of the weights, else the default.

    Raises:
        TransferError: if fewer of the encoder's tensors can be loaded than `min_loaded_fraction`.
    """
    known = str(origin.description.get("encoder", default))
    stored = origin.description.get("encoder_options", {})
    name = settings.encoder or known
    options = {**(stored if name == known else {}), **settings.encoder_options}
    chosen = {"encoder": name, "encoder_options": options}
    torch.manual_seed(stream_seed(settings.seed, "encoder"))
    encoder = build_encoder(name, spatial_dims=dims, in_channels=settings.in_channels, **options)
    if not origin.description:
        return encoder, None, chosen
    for line in origin.public.lines() if origin.public else ():
        log(line)
    report = transfer(encoder, origin.weights, least=settings.min_loaded_fraction)
    log(f"{report.loaded_fraction:.1%} of the encoder's tensors were loaded from '{origin.arm}'")
    changed = stem_change(stored, options)
    for line in [*report.lines(), *([f"stem changed: {changed}"] if changed else [])]:
        log(line)
    return encoder, report, chosen


def continue_method(method: Method, origin: InitialWeights, name: str, log: Callable[[str], None]) -> None:
    """Load the decoder and the other parts of a method too, where a run of the same method is continued."""
    if str(origin.description.get("arm", "")).split(" ")[0] != name:
        return
    wanted = {key: value.shape for key, value in method.state_dict().items() if not key.startswith(PREFIX)}
    fitting = {
        key: value for key, value in origin.weights.items() if key in wanted and value.shape == wanted[key]
    }
    method.load_state_dict(fitting, strict=False)
    log(f"{len(fitting)} of {len(wanted)} tensors of the method '{name}' were loaded: pretraining continues")


def origin_tags(
    origin: InitialWeights, report: Transfer | None, options: Mapping[str, Any]
) -> dict[str, str]:
    """Return the tags of a run that describe its initial weights, for an encoder with these options."""
    public = origin.public.rules if origin.public else ()
    stem = stem_change(origin.description.get("encoder_options", {}), options) if report else ""
    rules = [*public, *(report.rules if report else ()), *([f"stem changed: {stem}"] if stem else [])]
    return {
        "pretraining_run": origin.run_id,
        "loaded_fraction": f"{report.loaded_fraction:.4f}" if report else "",
        "lineage": " ← ".join(origin.lineage),
        "transfer_rules": "; ".join(rules),
    }
