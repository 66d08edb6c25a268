"""`medmim predict`: a fine-tuned model on scans that it never saw; what it finds goes back to where they are.

predictions.json                 model, and what became of every volume and file
volumes.csv, classes.csv or boxes.csv
segmentations/<volume>.nii.gz    classes on the voxels of the source
dicom/<volume>.dcm               the same as DICOM-SEG, with the identifiers of the source
pictures/<volume>.png
ledger.jsonl                     fate of every file of the source, as `medmim ingest` writes it
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import files
from medmim.data.dataset.manifest import Dataset, VolumeRecord, read_dataset
from medmim.data.dicom.write_segmentation import SourceSlice, write_segmentation
from medmim.data.formats.nifti import read_image
from medmim.data.ingest.context import READ_LIMITS, Progress
from medmim.data.ingest.pseudonyms import Keys
from medmim.data.ingest.publish import sole_use
from medmim.data.ingest.source_slices import Instances, find_instances, slices_of_volume
from medmim.data.sandbox.sandbox import Sandbox, for_scans
from medmim.errors import DataError, MedmimError, RunError, UsageError, raised_in
from medmim.stages.ingest import KEY_FILE, ingest
from medmim.stages.model_lookup import find_model
from medmim.stages.predict.checks import as_learnt, unlike
from medmim.stages.predict.outputs import OUTPUTS, VolumePrediction, trace_to_slices, write_table
from medmim.tracking.mlflow_store import Store
from medmim.training.tasks.trained_model import TrainedModel, load_trained_model

if TYPE_CHECKING:
    from medmim.stages.model_lookup import SelectedModel

_OURS = ("segmentations", "dicom", "pictures", *(one.table for one in OUTPUTS.values()), "ledger.jsonl")
_INDEX = "predictions.json"


@dataclass(frozen=True)
class Predictions:
    """What `predict` made.

    Attributes:
        out: folder.
        model: what it is called, and the SHA-256 of its weights.
        told: of each volume, by id.
        failures: reason codes of volumes without a prediction, by id.
        dicom: of each volume with a segmentation: `written`, or the reason why there is none in DICOM.
        files: reason codes of quarantined files of the source, by their number in its sorted walk.
        warnings: what speaks against relying on it, such as scans of another modality.
    """

    out: Path
    model: Mapping[str, str]
    told: Mapping[str, VolumePrediction]
    failures: Mapping[str, str] = field(default_factory=dict)
    dicom: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[int, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "predictions": str(self.out),
            "model": dict(self.model),
            "volumes": len(self.told) + len(self.failures),
            "predicted": sorted(self.told),
            "failures": dict(self.failures),
            "dicom": dict(self.dicom),
            "files": {str(number): reason for number, reason in self.files.items()},
            "warnings": list(self.warnings),
        }


def predict(
    source: Path,
    out: Path,
    *,
    home: Path,
    model: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
    **wishes: Any,
) -> Predictions:
    """Use a model on scans and write what it finds.

    Args:
        source: folder or single file with scans of any kind that `medmim ingest` takes, or a dataset folder.
        out: folder for what is written, outside of the source.
        home: `MEDMIM_HOME`.
        model: as `find_model` takes it.
        progress: told the phase, and how much of it is done.
        say: takes lines for the user.
        wishes: fields of `Wishes`, for ingestion.

    Raises:
        UsageError: for a source that is not there, or folders that lie in each other.
        RunError: if there is no such model, or the disk is full.
        DataError: if nothing could be predicted.
    """
    chosen = find_model(model, Store(home), say)
    trained = load_trained_model(chosen.weights)
    try:
        with sole_use(out) as staging, for_scans(wishes.get("workers")) as sandbox:
            work = _PredictionTask(home, sandbox, progress, say)
            _clear(out)
            scans, dataset = _take_in(source, out, staging, work, wishes)
            made = _predict(trained, chosen, dataset, out, work)
            made = _back_to_dicom(trained, scans, dataset, made, work)
            _write_index(trained, made)
    except OSError as error:
        raise RunError(
            f"cannot write to '{out}' ({error.strerror or type(error).__name__}): expected room and the "
            "right to write there; see to it and run the same command again"
        ) from error
    if not made.told:
        raise DataError(
            f"nothing could be predicted: {len(made.failures)} volumes failed "
            f"({', '.join(sorted(set(made.failures.values())))}); see '{out}/{_INDEX}'",
            reason="nothing_predicted",
        )
    return made


@dataclass(frozen=True)
class _PredictionTask:
    """What every step needs."""

    home: Path
    sandbox: Sandbox
    progress: Progress | None
    say: Callable[[str], None]


def _clear(out: Path) -> None:
    """Remove what an earlier prediction left: its volumes may not be in this source."""
    if not (out / _INDEX).is_file():
        return
    (out / _INDEX).unlink()
    for name in _OURS:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def _take_in(
    source: Path, out: Path, staging: Path, work: _PredictionTask, wishes: Mapping[str, Any]
) -> tuple[Path | None, Dataset]:
    """Return the folder of scans, None for a dataset folder, and the dataset that they became."""
    if (source / "dataset.json").is_file():
        return None, read_dataset(source)
    if not source.exists():
        raise UsageError(
            f"source '{source}' is not there: expected a folder or file with scans; check the path"
        )
    folder = source
    if source.is_file():
        folder = staging / "source"
        folder.mkdir()
        shutil.copy2(source, folder / source.name)
    elif out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"--out '{out}' lies in the source '{source}': choose another place for predictions")
    root = (staging if folder is source else staging / "taken") / "dataset"
    try:
        ingest(folder, root, home=work.home, progress=work.progress, sandbox=work.sandbox, **wishes)
    except DataError as error:
        if not (root / "ledger.jsonl").is_file():
            raise
        files.move(root / "ledger.jsonl", out / "ledger.jsonl")
        reasons = sorted({row["reason"] for row in files.read_jsonl(out / "ledger.jsonl")})
        raise DataError(
            f"nothing could be predicted: no usable scan ({', '.join(reasons)}); each file's fate is in "
            f"'{out}/ledger.jsonl'",
            reason="nothing_predicted",
        ) from error
    shutil.copyfile(root / "ledger.jsonl", out / "ledger.jsonl")
    return folder, read_dataset(root)


def _predict(
    trained: TrainedModel, chosen: SelectedModel, dataset: Dataset, out: Path, work: _PredictionTask
) -> Predictions:
    """Predict volume by volume; one that fails is named, and the others go on."""
    output, scene = OUTPUTS[trained.kind], trained.context(dataset.root)
    told: dict[str, VolumePrediction] = {}
    cases, rest = trained.cases(dataset)
    failures = {volume.id: "channel_missing" for volume in rest}
    for number, volume in enumerate(cases):
        bare = volume.model_copy(update={"label": None, "boxes": (), "target": None})
        try:
            told[volume.id] = output.tell(trained, scene, as_learnt(trained, bare), out)
        except files.WriteError:  # the next one would find the disk as it is
            raise
        except DataError as error:
            failures[volume.id] = error.reason
        except (MedmimError, RuntimeError, ValueError) as error:  # of torch: no memory, sizes
            failures[volume.id] = "network_failed"
            work.say(f"volume {volume.id}: {type(error).__name__} in {raised_in(error)}")
        if work.progress:
            work.progress("predict", number + 1, len(cases))
    write_table(out / output.table, _rows(told), output.columns)
    ledger = out / "ledger.jsonl"
    rows = files.read_jsonl(ledger) if ledger.is_file() else ()
    faulty = {row["number"]: row["reason"] for row in rows if row["fate"] == "quarantined"}
    return Predictions(
        out,
        {"name": chosen.title, "task": trained.kind, "sha256": trained.sha256},
        told,
        failures=failures,
        files=faulty,
        warnings=unlike(trained, dataset.volumes, work.say),
    )


def _rows(told: Mapping[str, VolumePrediction]) -> list[Mapping[str, Any]]:
    return [row for one in told.values() for row in one.rows]


def _back_to_dicom(
    trained: TrainedModel, scans: Path | None, dataset: Dataset, made: Predictions, work: _PredictionTask
) -> Predictions:
    """Trace boxes to the files of their slices, and write label volumes as DICOM-SEG too."""
    volumes = [one for one in dataset.volumes if one.slices and one.id in made.told]
    if scans is None or trained.kind == "classify" or not any(made.told[one.id].rows for one in volumes):
        return made
    keys = Keys.load_or_create(work.home / KEY_FILE)
    instances = find_instances(scans, dataset, keys=keys, sandbox=work.sandbox)
    if trained.kind == "segment":
        return _to_dicom(trained, volumes, instances, made, work)
    numbers = {key: found[0].number for key, found in instances.items()}
    made = replace(made, told={name: trace_to_slices(one, numbers) for name, one in made.told.items()})
    output = OUTPUTS[trained.kind]
    write_table(made.out / output.table, _rows(made.told), output.columns)
    return made


def _to_dicom(
    trained: TrainedModel,
    volumes: Sequence[VolumeRecord],
    instances: Instances,
    made: Predictions,
    work: _PredictionTask,
) -> Predictions:
    labels = {one.id: label for one in volumes if (label := made.told[one.id].label)}
    fates: dict[str, str] = {}
    tasks: dict[str, dict[str, Any]] = {}
    for volume in volumes:
        try:
            slices = slices_of_volume(volume, read_image(labels[volume.id]).affine, instances)
            tasks[volume.id] = _task(trained, volume, labels[volume.id], slices, made.out)
        except DataError as error:
            fates[volume.id] = error.reason
    answers = work.sandbox.run_each(write_segmentation, list(tasks.values()), limits=READ_LIMITS)
    for name, answer in zip(tasks, answers, strict=True):
        fates[name] = answer.reason or "segmentation_not_possible"
        if answer.value:
            generated = answer.value["new_frame_of_reference"]
            fates[name] = "written_with_new_frame_of_reference" if generated else "written"
    return replace(made, dicom=fates)


def _task(
    trained: TrainedModel, volume: VolumeRecord, label: Path, slices: list[SourceSlice], out: Path
) -> dict[str, Any]:
    return {
        "label": str(label),
        "target": str(out / "dicom" / f"{volume.id}.dcm"),
        "slices": slices,
        "names": {str(number): name for number, name in trained.names.items()},
        "model": trained.sha256,
    }


def _write_index(trained: TrainedModel, made: Predictions) -> None:
    index = made.as_json()
    del index["predictions"]
    classes = {str(number): name for number, name in trained.names.items()}
    files.write_json(made.out / _INDEX, {**index, "classes": classes})
