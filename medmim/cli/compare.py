"""`medmim compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medmim.cli.options import (
    dataset_option,
    home,
    json_option,
    metrics_option,
    path_option,
    print_result,
)
from medmim.cli.progress import log_line, phases

if TYPE_CHECKING:
    from medmim.stages.compare import CompareResult


@click.command(
    "compare",
    epilog="""\b
Examples:
  medmim compare                the newest study, or all runs comparable with the newest one
  medmim compare RUN RUN --json
  medmim compare RUN RUN --seeds 3 --data medmim-data
  medmim compare --study quick --promote
  medmim compare --predictions nnunet=DIR --predictions mine=DIR --labels labelsTs""",
)
@click.argument("runs", nargs=-1)
@click.option("--study", help="Compare the trials of this study.  [default: the newest run's study]")
@click.option(
    "--seeds",
    type=click.IntRange(min=2),
    help="First train every arm until it has that many seeds; finished training runs are not repeated.",
)
@dataset_option("Dataset folder, for --seeds.")
@click.option("--promote", is_flag=True, help="Make the best model champion if the paired test allows it.")
@click.option(
    "--predictions",
    multiple=True,
    metavar="NAME=DIR",
    help="Compare label maps, class tables or boxes of any tool, matched with --labels by name; "
    "repeat it for each tool, and for each training of a tool.",
)
@path_option(
    "--labels",
    help="Truth for --predictions: folder of label maps, COCO JSON, or CSV with the columns image and label "
    "(classes), grade (ordered), value (numbers), or one of 0 and 1 for each class.",
)
@metrics_option(
    "Metrics of --predictions, such as dice,hd95_mm; the first one is tested.  [default: by the labels]"
)
@click.option(
    "--tolerance-mm",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Tolerance of surface Dice, for --predictions.",
)
@click.option(
    "--subject-pattern",
    metavar="REGEX",
    help="Patient of a label map: the first group of this expression in its name.  [default: one each]",
)
@path_option("--subjects", help="Patients of label maps: a CSV file with the columns file and subject.")
@json_option
def command(
    *,
    runs: tuple[str, ...],
    study: str | None,
    seeds: int | None,
    data: Path,
    promote: bool,
    predictions: tuple[str, ...],
    as_json: bool,
    **files: Any,
) -> None:
    """Compare fine-tuning runs, a study or predictions: scores, intervals, paired tests, and a report."""
    if predictions:
        if runs or study or seeds or promote:
            raise click.UsageError(
                "--predictions: expected files only, got runs, --study, --seeds or --promote"
            )
        _compare_predictions(predictions, as_json=as_json, **files)
        return
    if files["labels"]:
        raise click.UsageError("--labels is for --predictions NAME=DIR, got none")
    from medmim.stages.compare import compare_runs, compare_study, newest_study

    if runs and study:
        raise click.UsageError("--study NAME or RUN RUN: expected one of them, got both")
    name = study or (None if runs else newest_study(home()))
    if name and seeds:
        from medmim.config.study import seeds_command

        raise click.UsageError(f"--seeds is for runs outside studies: use `{seeds_command(name)}`")
    if seeds:
        from medmim.stages.train_seeds import train_missing_seeds

        runs = tuple(train_missing_seeds(runs, seeds=seeds, data=data, home=home(), log=log_line))
    if name:
        compared = compare_study(name, home=home(), promoting=promote)
    else:
        compared = compare_runs(runs, home=home(), promoting=promote)
    lines, following = comparison_lines(compared), "medmim predict SCANS, or medmim report"
    print_result(compared.as_json(), as_json=as_json, lines=lines, following=following)


def _compare_predictions(
    predictions: tuple[str, ...],
    *,
    labels: Path | None,
    metrics: tuple[str, ...],
    tolerance_mm: float,
    subject_pattern: str | None,
    subjects: Path | None,
    as_json: bool,
) -> None:
    if labels is None:
        raise click.UsageError("--predictions needs --labels DIR, the folder of true label maps")
    from medmim.data.ingest.layout_rules import SubjectRule
    from medmim.stages.compare_predictions.label_maps import MapOptions
    from medmim.stages.compare_predictions.run import compare_predictions

    options = MapOptions(metrics, tolerance_mm, SubjectRule(subject_pattern, subjects))
    with phases() as progress:
        done = compare_predictions(predictions, labels, options, home=home(), progress=progress)
    lines = [*(one.sentence for one in done.problems), *comparison_lines(done.compared)]
    print_result(done.as_json(), as_json=as_json, lines=lines, following="medmim report")


def comparison_lines(compared: CompareResult) -> list[str]:
    """Return differences of settings, the table of arms, the sentences and the place of the report."""
    findings = compared.findings
    lines = [f"unequal: {line}" for line in findings.differences]
    width = max(len("arm"), *(len(arm.title) for arm in findings.arms))
    lines.append(f"{'arm':<{width}}  {findings.metric:<8}  95 % interval    HD95 mm  patients  seeds")
    for arm in findings.arms:
        interval = "{:.3f} … {:.3f}".format(*arm.interval) if arm.interval else "–"
        distance = "–" if arm.hd95_mm is None else f"{arm.hd95_mm:.2f}"
        lines.append(
            f"{arm.title:<{width}}  {arm.mean:<8.3f}  {interval:<15}  {distance:>7}"
            f"  {len(arm.patients):8d}  {len(arm.seeds):5d}"
        )
    lines += ["", *findings.verdicts, *(one.sentence for one in findings.evenness)]
    lines += [f"note: {note}" for note in (*compared.notes, *findings.warnings)]
    lines += [compared.promotion.sentence] if compared.promotion else []
    return [*lines, "", f"report   {compared.report}", f"figure   {compared.report.parent / 'scores.png'}"]
