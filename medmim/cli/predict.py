"""`medmim predict`."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medmim.cli.options import home, json_option, models_option, out_option, print_result
from medmim.cli.progress import log_line, phases
from medmim.errors import UsageError, counted

if TYPE_CHECKING:
    from medmim.stages.predict.predictions import Predictions

_LINES = 20
_REFUSED = "unlike_training_data"  # already named on stderr


@click.command(
    "predict",
    epilog="""\b
Examples:
  medmim predict /dicom                          with the champion, else the best candidate
  medmim predict /dicom --model lung-segment --out lung-predictions
  medmim predict scan.nii.gz --model 3f2a        a fine-tuning run
  medmim predict /dicom --model 3f2a --model 9c41        the mean of two runs, such as two seeds
  medmim predict /dicom --model 3f2a --folds all         the mean of the five runs of a cross-validation
  medmim predict medmim-data --model weights.safetensors""",
)
@click.argument("source", type=click.Path(path_type=Path))
@models_option
@click.option(
    "--folds",
    type=click.Choice(["all"]),
    help="The mean of the models of all five folds that were trained with the settings of --model.",
)
@out_option("predictions")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Processes that read scans.  [default: one per core]"
)
@click.option(
    "--allow-burned-in",
    is_flag=True,
    help="Accept ultrasound, secondary captures and similar images; check first that they show no names.",
)
@click.option(
    "--save-probabilities",
    is_flag=True,
    help="Also write the class probabilities of segmentations, as .npz on the model's grid.",
)
@click.option(
    "--pictures",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Number of volumes with a picture; one takes longer than the prediction of a 2D image.",
)
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    help="Write boxes of at least this score.  [default: of each class, chosen on validation cases]",
)
@click.option(
    "--max-memory",
    "max_memory_gb",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="Memory for the probabilities of a volume; larger ones are segmented in slabs and kept in a file in "
    "$TMPDIR, with the same result.  [default: half of what is free]",
)
@click.option("--force", is_flag=True, help="Also predict scans that do not resemble the training data.")
@json_option
def command(
    *,
    source: Path,
    model: tuple[str, ...],
    folds: str | None,
    out: Path,
    save_probabilities: bool,
    pictures: int,
    min_score: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Apply a fine-tuned model to the scans at SOURCE: DICOM, NIfTI, NRRD, images or a dataset folder.

    Label volumes are written on the voxel grid of the source, and as DICOM-SEG that refers to its slices. The
    DICOM-SEG files are the only ones with the patient's identifiers, for the archive that already has them.
    Predictions of NIfTI files and pictures have the names of their files, those of DICOM are in folders by
    patient key; sources.csv, for you alone, lists every source file with its key, or why it was not used.
    Scans that do not resemble the training data of the model (kind, modality, spacing, extent, intensities)
    are refused without --force, which marks them in predictions.json.
    """
    from medmim.stages.model_lookup import FoldsOf
    from medmim.stages.predict.outputs import Extras
    from medmim.stages.predict.run import predict

    if folds and len(model) > 1:
        raise UsageError(f"--folds all: expected one --model, got {len(model)}")
    extras = Extras(save_probabilities, pictures, min_score, options.pop("max_memory_gb"))
    with phases() as progress:
        result = predict(
            source,
            out,
            home=home(),
            model=FoldsOf(model[0] if model else None) if folds else model,
            progress=progress,
            log=log_line,
            extras=extras,
            **options,
        )
    following = f"medmim evaluate --data DATASET --predictions {shlex.quote(str(out))}, where labels exist"
    print_result(result.as_json(), as_json=as_json, lines=_lines(result), following=following)


def _lines(result: Predictions) -> list[str]:
    """Return the result for people: volumes, then failures; scans that were refused or forced are counted."""
    volumes = [f"  {result.name(key)}  {one.summary}" for key, one in result.volumes.items()]
    more = [f"  and {len(volumes) - _LINES} more"] if len(volumes) > _LINES else []
    written = sum(outcome.startswith("written") for outcome in result.dicom.values())
    refused = sum(reason == _REFUSED for reason in result.failures.values())
    failed = len(result.failures) - refused
    counts = f"{len(volumes)} predicted, {failed} failed, {refused} refused, {written} also as DICOM-SEG"
    return [
        f"model        {result.model['name']}",
        f"predictions  {result.out}",
        f"volumes      {counts}",
        *volumes[:_LINES],
        *more,
        *([f"forced       {counted(len(result.forced), 'scan')}, named above"] if result.forced else []),
        *(
            [f"refused      {counted(refused, 'scan')}, named above; --force predicts them"]
            if refused
            else []
        ),
        *(
            f"failed       {result.name(key)}: {reason}"
            for key, reason in result.failures.items()
            if reason != _REFUSED
        ),
        *(
            f"no DICOM-SEG {result.name(key)}: {outcome}"
            for key, outcome in result.dicom.items()
            if not outcome.startswith("written")
        ),
        *(
            f"warning      {result.name(key)}: it has no FrameOfReferenceUID, so a new one was generated"
            for key, outcome in result.dicom.items()
            if outcome == "written_with_new_frame_of_reference"
        ),
        *(
            f"not used     {counted(count, 'file')}: {reason}"
            for reason, count in Counter(result.files.values()).most_common()
        ),
        *([f"sources      {sources}"] if (sources := result.out / "sources.csv").is_file() else []),
    ]
