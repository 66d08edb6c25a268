"""`medmim evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medmim.cli.options import (
    home,
    json_option,
    metrics_option,
    model_option,
    out_option,
    path_option,
    print_result,
)
from medmim.cli.progress import log_line, phases
from medmim.errors import counted

if TYPE_CHECKING:
    from medmim.stages.evaluate.run import EvaluationResult


@click.command(
    "evaluate",
    epilog="""\b
Examples:
  medmim evaluate --data other-hospital
  medmim evaluate --data other-hospital --model dataset-segment@champion --split all
  medmim evaluate --data two-sites --by site
  medmim evaluate --data other-hospital --by patients.csv:scanner
  medmim evaluate --data br35h --split all --label-map glioma=tumour --label-map meningioma=tumour
  medmim evaluate --data other-hospital --predictions predictions --metrics surface_dice,hd95_mm""",
)
@path_option("--data", required=True, help="Dataset folder with annotations.")
@model_option
@path_option(
    "--predictions",
    help="Score the predictions in this folder instead of a model: output of `medmim predict`, or label maps "
    "<volume>.nii.gz of any tool.",
)
@click.option(
    "--split",
    type=click.Choice(["test", "all"]),
    default="test",
    show_default=True,
    help="Cases to score; all: every annotated case.",
)
@click.option(
    "--targets",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV file with a class or number for each volume or patient, as for `medmim finetune`.",
)
@click.option("--column", default="", help="Column of --targets, such as age.")
@click.option("--by", help="Also score subgroups: site, modality, group, or FILE.csv:COLUMN.")
@click.option(
    "--label-map",
    multiple=True,
    metavar="MODEL=DATA",
    help="Pair a class of the model with one of the data; repeat it. An empty side leaves a class out.",
)
@metrics_option(
    "Metrics to report, such as dice,cldice,hd95_mm; figures show the first one.  [default: by the task]"
)
@click.option("--force", is_flag=True, help="Also score scans that do not resemble the training data.")
@out_option("evaluation")
@json_option
def command(
    *, data: Path, model: str | None, predictions: Path | None, out: Path, as_json: bool, **options: Any
) -> None:
    """Score a model, or predictions, on the annotations of another dataset.

    The classes of model and data are matched by name, never by number. The output has the tables, intervals
    and pictures of the test of `medmim finetune`, subgroups, and a report. The evaluated cases are compared
    with everything that the model has seen, by patient key and by equal voxels.
    """
    if model and predictions:
        raise click.UsageError("--model or --predictions: expected one of them, got both")
    if bool(options["targets"]) != bool(options["column"]):
        raise click.UsageError(
            "--targets and --column: expected both, such as --targets ages.csv --column age"
        )
    if predictions and not predictions.is_dir():
        raise click.UsageError(f"--predictions '{predictions}': expected a folder; check the path")
    log_line(f"evaluating {predictions or model or 'the default model'} on {data}")
    from medmim.stages.evaluate.prediction_source import EvaluationOptions
    from medmim.stages.evaluate.run import evaluate

    with phases() as progress:
        result = evaluate(
            data,
            out,
            EvaluationOptions(model, predictions, **options),
            home=home(),
            progress=progress,
            log=log_line,
        )
    following = "medmim report" if predictions else "medmim predict SCANS"
    print_result(result.as_json(), as_json=as_json, lines=_lines(result), following=following)


def _lines(result: EvaluationResult) -> list[str]:
    """Return the result for people: contamination, scores, and the main metric of subgroups."""
    facts = result.facts
    lines = [
        f"model          {facts['model']} ({facts['task']}: {facts['classes']})",
        f"data           {facts['dataset']}, split {facts['split']}: {counted(facts['cases'], 'case')} of "
        f"{counted(facts['patients'], 'patient')}",
        f"metrics        {facts['metrics']}",
        f"contamination  {result.contamination}",
    ]
    for group in result.groups:
        lines += [f"{group.title} ({group.cases})"] if len(result.groups) > 1 else []
        lines += [
            f"{row['metric']:<29} {row['value']:.3f}   "
            + ("no interval" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}")
            for row in group.scores
        ]
    return [*lines, f"report         {result.page}"]
