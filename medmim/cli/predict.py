"""`medmim predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medmim.cli.options import home, json_option, model_option, phases, print_result

if TYPE_CHECKING:
    from medmim.stages.predict.run import Predictions

_LINES = 20


@click.command(
    "predict",
    epilog="""\b
Examples:
  medmim predict /dicom                          with the champion, else the newest challenger
  medmim predict /dicom --model lung-segment --out lung-predictions
  medmim predict scan.nii.gz --model 3f2a        a fine-tuning run
  medmim predict medmim-data --model weights.safetensors""",
)
@click.argument("source", type=click.Path(path_type=Path))
@model_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="predictions",
    show_default=True,
    help="Folder to write.",
)
@click.option("--workers", type=int, help="Processes that read scans.  [default: one a core]")
@click.option(
    "--allow-burned-in",
    is_flag=True,
    help="Accept ultrasound, secondary captures and the like: somebody looked, no names are in the pixels.",
)
@json_option
def command(*, source: Path, model: str | None, out: Path, as_json: bool, **wishes: Any) -> None:
    """Use a fine-tuned model on the scans at SOURCE: DICOM, NIfTI, NRRD, pictures or a dataset folder.

    Labels are written on the voxels of the source, and as DICOM-SEG that refers to its slices: the only files
    that hold the patient's identifiers, for the archive that knows them. A file that cannot be used is named
    by its number in the sorted walk of the source, with a reason; the others go on.
    """
    from medmim.stages.predict.run import predict

    with phases() as progress:
        made = predict(
            source,
            out,
            home=home(),
            model=model,
            progress=progress,
            say=lambda line: click.echo(line, err=True),
            **wishes,
        )
    print_result(made.as_json(), as_json=as_json, lines=_lines(made))


def _lines(made: Predictions) -> list[str]:
    """Return the result for people: volumes, then failures."""
    told = [f"  {name}  {one.words}" for name, one in made.told.items()]
    more = [f"  and {len(told) - _LINES} more"] if len(told) > _LINES else []
    written = sum(fate.startswith("written") for fate in made.dicom.values())
    return [
        f"model        {made.model['name']}",
        f"predictions  {made.out}",
        f"volumes      {len(made.told)} predicted, {len(made.failures)} failed, {written} as DICOM-SEG too",
        *told[:_LINES],
        *more,
        *(f"failed       volume {name}: {reason}" for name, reason in made.failures.items()),
        *(
            f"no DICOM-SEG volume {name}: {fate}"
            for name, fate in made.dicom.items()
            if not fate.startswith("written")
        ),
        *(
            f"warning      volume {name}: the scan has no FrameOfReferenceUID, so a new one was generated"
            for name, fate in made.dicom.items()
            if fate == "written_with_new_frame_of_reference"
        ),
        *(f"not used     file {number}: {reason}" for number, reason in list(made.files.items())[:_LINES]),
    ]
