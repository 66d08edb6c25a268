"""`medmim compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from medmim.cli.options import home, json_option, print_result

if TYPE_CHECKING:
    from medmim.stages.compare import CompareResult


@click.command(
    "compare",
    epilog="""\b
Examples:
  medmim compare                the newest study, or all runs comparable with the newest one
  medmim compare RUN RUN --json
  medmim compare RUN RUN --seeds 3 --data medmim-data
  medmim compare --study quick --promote""",
)
@click.argument("runs", nargs=-1)
@click.option("--study", help="Compare the trials of this study.  [default: the newest run's study]")
@click.option(
    "--seeds",
    type=click.IntRange(min=2),
    help="First train every arm until it has so many seeds; finished trainings are not repeated.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default="medmim-data",
    show_default=True,
    help="Dataset folder, for --seeds.",
)
@click.option("--promote", is_flag=True, help="Make the best model champion if the paired test allows it.")
@json_option
def command(
    *,
    runs: tuple[str, ...],
    study: str | None,
    seeds: int | None,
    data: Path,
    promote: bool,
    as_json: bool,
) -> None:
    """Compare fine-tuning runs or a study: scores, confidence intervals, paired tests, and a report."""
    from medmim.stages.compare import compare_runs, compare_study, newest_study

    if runs and study:
        raise click.UsageError("--study NAME or RUN RUN: expected one of them, got both")
    name = study or (None if runs else newest_study(home()))
    if name and seeds:
        raise click.UsageError(
            f"--seeds is for runs outside studies: use `medmim study {name} --set seeds=…`"
        )
    if seeds:
        from medmim.stages.missing_seeds import train_missing_seeds

        runs = tuple(train_missing_seeds(runs, seeds=seeds, data=data, home=home(), log=_log))
    if name:
        compared = compare_study(name, home=home(), promoting=promote)
    else:
        compared = compare_runs(runs, home=home(), promoting=promote)
    print_result(compared.as_json(), as_json=as_json, lines=comparison_lines(compared))


def _log(line: str) -> None:
    click.echo(line, err=True)


def comparison_lines(compared: CompareResult) -> list[str]:
    """Return differences of settings, the table of arms, the sentences and the place of the report."""
    findings = compared.findings
    lines = [f"settings differ: {line}" for line in findings.differences]
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
