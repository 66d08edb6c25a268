"""`medmim predict`: apply a fine-tuned model to new scans, and write its predictions on their own grids.

predictions.json, and volumes.csv, classes.csv, boxes.csv or values.csv
segmentations/<name>.nii.gz    classes on the voxel grid of the source
dicom/<name>.dcm               the same as DICOM-SEG, with the identifiers of the source
pictures/<name>.png
ledger.jsonl                   outcome of every source file, as `medmim ingest` writes it
sources.csv                    paths of the source files with their keys, for the user alone

<name> is that of the source file, or `<patient>/<volume>` for DICOM; see `output_names`.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from medmim import files
from medmim.data.dataset.channels import missing_channels
from medmim.data.dataset.contamination_certificate import seen_scans
from medmim.data.dataset.manifest import Dataset, VolumeRecord, read_dataset
from medmim.data.dataset.pseudonyms import KEY_FILE, Keys
from medmim.data.dicom.write_segmentation import write_segmentation
from medmim.data.formats.nifti import read_image
from medmim.data.ingest.context import READ_LIMITS, Progress
from medmim.data.ingest.layout_rules import InferenceRules
from medmim.data.ingest.source_slices import Instances, find_instances, slices_of_volume
from medmim.data.ingest.staging import locked_staging_folder
from medmim.data.sandbox.sandbox import Sandbox, for_scans
from medmim.errors import DataError, MedmimError, RunError, UsageError, counted, raised_in
from medmim.stages.ingest import ingest
from medmim.stages.initial_weights import patients_seen_by
from medmim.stages.model_lookup import FoldsOf, find_models
from medmim.stages.predict.outputs import (
    OUTPUTS,
    Extras,
    OutputFile,
    OutputPlace,
    VolumePrediction,
    trace_to_slices,
)
from medmim.stages.predict.predictions import (
    INDEX,
    SOURCES,
    Predictions,
    clear,
    paths_of,
    write_names,
    write_sources,
)
from medmim.stages.unlike_training_data import (
    UNLIKE,
    check_channels,
    check_for_members,
    modality_warnings,
    with_modality,
)
from medmim.text_formats import csv_text
from medmim.training.tasks.base import EvaluationContext
from medmim.training.tasks.trained_model import TrainedModel, ensemble_of, load_trained_model

_BARE: Mapping[str, Any] = {"label": None, "boxes": (), "target": None, "targets": {}}


def predict(
    source: Path,
    out: Path,
    *,
    home: Path,
    model: str | Sequence[str] | FoldsOf | None = None,
    progress: Progress | None = None,
    log: Callable[[str], None] = print,
    force: bool = False,
    extras: Extras = Extras(),  # noqa: B008 (frozen)
    **options: Any,
) -> Predictions:
    """Apply a model to scans and write its predictions.

    Args:
        source: folder or file with scans, or a dataset folder.
        model: as in `find_models`; several are averaged.
        force: predict scans too that do not resemble the training data.
        extras: what is written besides the predictions.
        **options: fields of `IngestOptions`.

    Raises:
        UsageError: for a missing source, an output folder inside the source, or models that do not match.
        RunError: if there is no such model, or the disk is full.
        DataError: if nothing could be predicted.
    """
    found = find_models(model, home, log)
    trained = ensemble_of([load_trained_model(one.weights) for one in found])
    title = " + ".join(one.title for one in found)
    log(f"predict      '{source}' with {title} ({trained.kind}); results in '{out}'")
    try:
        with locked_staging_folder(out) as staging, for_scans(options.get("workers")) as sandbox:
            task = _PredictionTask(home, sandbox, progress, log, extras, force)
            clear(out)
            scans, dataset = _ingest(source, out, staging, task, {"rules": _rules(trained), **options})
            names = write_names(trained, dataset, scans, out)
            seen = seen_scans(dataset.volumes, [patients_seen_by(one.weights) for one in found], log)
            empty = Predictions(out, trained.summary(title), {}, names=names, warnings=seen)
            result = _link_to_dicom(trained, scans, dataset, _predict(trained, dataset, empty, task), task)
            _write_index(trained, result)
    except OSError as error:
        remedy = "expected free space and write permission; fix it and run the same command again"
        if error.errno == errno.ENOLCK:
            remedy = "this network folder supports no locks; choose --out on a local disk"
        raise RunError(
            f"cannot write to '{out}' ({error.strerror or type(error).__name__}): {remedy}"
        ) from error
    if not result.volumes:
        raise DataError(
            f"nothing could be predicted: {counted(len(result.failures), 'volume')} failed "
            f"({', '.join(sorted(set(result.failures.values())))}); see '{out}/{INDEX}'",
            reason="nothing_predicted",
        )
    return result


@dataclass(frozen=True)
class _PredictionTask:
    """Arguments that all steps share."""

    home: Path
    sandbox: Sandbox
    progress: Progress | None
    log: Callable[[str], None]
    extras: Extras
    force: bool = False


def _rules(trained: TrainedModel) -> InferenceRules:
    numbered = sum(one.startswith("channel") for one in trained.channels)
    return InferenceRules(expects_labels=False, channels=numbered)


def _ingest(
    source: Path, out: Path, staging: Path, task: _PredictionTask, options: Mapping[str, Any]
) -> tuple[Path | None, Dataset]:
    """Return the folder of scans (None for a dataset folder), and the dataset made of them."""
    if (source / "manifest.jsonl").is_file():  # nnU-Net's folders have a dataset.json too
        return None, read_dataset(source)
    if not source.exists():
        raise UsageError(f"source '{source}' does not exist: expected a folder or file; check the path")
    folder = source
    if source.is_file():
        folder = staging / "source"
        folder.mkdir()
        shutil.copy2(source, folder / source.name)
    elif out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"--out '{out}' is inside the source '{source}': choose another output folder")
    root = (staging if folder is source else staging / "taken") / "dataset"
    try:
        ingest(folder, root, home=task.home, progress=task.progress, sandbox=task.sandbox, **options)
    except DataError as error:
        if not (root / "ledger.jsonl").is_file():
            raise
        files.move(root / "ledger.jsonl", out / "ledger.jsonl")
        rows = list(files.read_jsonl(out / "ledger.jsonl"))
        write_sources(out, (), rows, paths_of(folder), {})
        reasons = sorted({row["reason"] for row in rows})
        raise DataError(
            f"nothing could be predicted: no usable scan ({', '.join(reasons)}); the reason for each file is "
            f"in '{out / SOURCES}'",
            reason="nothing_predicted",
        ) from error
    shutil.copyfile(root / "ledger.jsonl", out / "ledger.jsonl")
    return folder, read_dataset(root)


def _predict(
    trained: TrainedModel, dataset: Dataset, empty: Predictions, task: _PredictionTask
) -> Predictions:
    """Predict volume by volume; a failure is recorded and does not stop the others."""
    windows = partial(task.progress, "windows of this volume") if task.progress else None
    output, context = OUTPUTS[trained.kind], replace(trained.context(dataset.root), progress=windows)
    predictions: dict[str, VolumePrediction] = {}
    filled = check_channels(trained, dataset, task.log, empty.names)
    cases, rest = trained.cases(dataset, incomplete=True)
    force = task.force
    unlike = check_for_members(trained, cases, dataset.root, task.log, force=force, names=empty.names)
    refused = set() if force else set(unlike)
    failures = {one.id: "channel_missing" for one in rest} | dict.fromkeys(refused, UNLIKE)
    order = {name: place for place, name in enumerate(empty.names)}
    cases = tuple(one for one in sorted(cases, key=lambda one: order[one.id]) if one.id not in refused)
    for number, volume in enumerate(cases):
        try:
            place = OutputPlace(empty.out, empty.names[volume.id], number < task.extras.pictures, task.extras)
            predictions[volume.id] = _predict_case(trained, context, volume, place, force=force)
        except files.WriteError:  # would fail for the next volume too
            raise
        except DataError as error:
            failures[volume.id] = error.reason
            task.log(f"warning: {empty.names[volume.id]}: {error}")
        except (MedmimError, RuntimeError, ValueError, MemoryError) as error:  # from torch: memory, sizes
            failures[volume.id] = "out_of_memory" if isinstance(error, MemoryError) else "network_failed"
            task.log(f"volume {volume.id}: {type(error).__name__} in {raised_in(error)}")
        if task.progress:
            task.progress("predict", number + 1, len(cases))
    empty = replace(empty, forced=unlike if force else {})
    _write_table(output, predictions, empty)
    ledger = empty.out / "ledger.jsonl"
    rows = files.read_jsonl(ledger) if ledger.is_file() else ()
    return replace(
        empty,
        volumes=predictions,
        failures=failures,
        files={row["number"]: row["reason"] for row in rows if row["fate"] == "quarantined"},
        warnings=(*empty.warnings, *filled, *modality_warnings(trained, dataset.volumes, task.log)),
    )


def _predict_case(
    trained: TrainedModel, context: EvaluationContext, case: VolumeRecord, place: OutputPlace, *, force: bool
) -> VolumePrediction:
    known = with_modality(trained, case.model_copy(update=_BARE), force=force)
    with trained.without_channels(missing_channels(case)):
        return OUTPUTS[trained.kind].predict(trained, context, known, place)


def _write_table(
    output: OutputFile, predictions: Mapping[str, VolumePrediction], result: Predictions
) -> None:
    """Write the table of a task: the name of each volume second; last, why a volume had to be forced."""
    marked = ("forced",) if result.forced else ()
    rows = [
        {
            "volume": name,
            "name": result.names[name],
            **row,
            **{key: result.forced.get(name, "") for key in marked},
        }
        for name, one in predictions.items()
        for row in one.rows
    ]
    columns = (output.columns[0], "name", *output.columns[1:], *marked)
    files.write_text(result.out / output.table, csv_text(rows, columns))


def _link_to_dicom(
    trained: TrainedModel, scans: Path | None, dataset: Dataset, result: Predictions, task: _PredictionTask
) -> Predictions:
    """Trace boxes to the files of their slices, or write label volumes as DICOM-SEG."""
    predictions = result.volumes
    volumes = [one for one in dataset.volumes if one.slices and one.id in predictions]
    placed = trained.kind in ("detect", "segment") and any(predictions[one.id].rows for one in volumes)
    if scans is None or not placed:
        return result
    keys = Keys.load_or_create(task.home / KEY_FILE)
    instances = find_instances(scans, dataset, keys=keys, sandbox=task.sandbox)
    if trained.kind == "segment":
        return _write_dicom(trained, volumes, instances, result, task)
    numbers = {key: found[0].number for key, found in instances.items()}
    traced = {name: trace_to_slices(one, numbers) for name, one in predictions.items()}
    _write_table(OUTPUTS[trained.kind], traced, result)
    return replace(result, volumes=traced)


def _write_dicom(
    trained: TrainedModel,
    volumes: Sequence[VolumeRecord],
    instances: Instances,
    result: Predictions,
    task: _PredictionTask,
) -> Predictions:
    labels = {one.id: label for one in volumes if (label := result.volumes[one.id].label)}
    outcomes: dict[str, str] = {}
    jobs: dict[str, dict[str, Any]] = {}
    for volume in volumes:
        try:
            jobs[volume.id] = {
                "label": str(labels[volume.id]),
                "target": str(result.out / "dicom" / f"{result.names[volume.id]}.dcm"),
                "slices": slices_of_volume(volume, read_image(labels[volume.id]).affine, instances),
                "names": {str(trained.codes[number]): name for number, name in trained.names.items()},
                "model": trained.sha256,
            }
        except DataError as error:
            outcomes[volume.id] = error.reason
    answers = task.sandbox.run_each(write_segmentation, list(jobs.values()), limits=READ_LIMITS)
    for name, answer in zip(jobs, answers, strict=True):
        outcomes[name] = answer.reason or "segmentation_not_possible"
        if answer.value:
            generated = answer.value["new_frame_of_reference"]
            outcomes[name] = "written_with_new_frame_of_reference" if generated else "written"
    return replace(result, dicom=outcomes)


def _write_index(trained: TrainedModel, result: Predictions) -> None:
    index = result.as_json()
    del index["predictions"]
    classes = {str(trained.codes[number]): name for number, name in trained.names.items()}
    files.write_json(result.out / INDEX, {**index, "classes": classes})
