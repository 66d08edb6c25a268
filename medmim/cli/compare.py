"""`medmim compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from medmim.cli.options import home, json_option, print_result

if TYPE_CHECKING:
    from medmim.stages.compare import CompareResult, CompareStudyResult
    from medmim.tracking.comparison.findings import Findings


@click.command(
    "compare",
    epilog="""\b
Examples:
  medmim compare                the newest study, or all runs comparable with the newest one
  medmim compare RUN RUN --json
  medmim compare --study quick --promote""",
)
@click.argument("runs", nargs=-1)
@click.option("--study", help="Compare the cells of this study.  [default: the newest run's]")
@click.option("--promote", is_flag=True, help="Make the best model champion if the paired test allows it.")
@json_option
def command(*, runs: tuple[str, ...], study: str | None, promote: bool, as_json: bool) -> None:
    """Compare fine-tuning runs or a study: scores with intervals, paired tests, and what they show."""
    from medmim.stages.compare import compare_runs, compare_study, newest_study

    if runs and study:
        raise click.UsageError("--study NAME or RUN RUN: expected one of them, got both")
    name = study or (None if runs else newest_study(home()))
    if name:
        of_study = compare_study(name, home=home(), promoting=promote)
        print_result(of_study.as_json(), as_json=as_json, lines=study_comparison_lines(of_study))
        return
    compared = compare_runs(runs, home=home(), promoting=promote)
    print_result(compared.as_json(), as_json=as_json, lines=comparison_lines(compared))


def comparison_lines(compared: CompareResult) -> list[str]:
    """Return the table, the verdicts and the report's place, for people."""
    arms = compared.comparison.arms
    width = max(len("arm"), *(len(arm.name) for arm in arms))
    lines = [f"{'arm':<{width}}  {arms[0].metric:<8}  95 % interval    HD95 mm  patients  seeds"]
    for arm in arms:
        score, distance = arm.score, "      –" if arm.hd95_mm is None else f"{arm.hd95_mm:7.2f}"
        lines.append(
            f"{arm.name:<{width}}  {score.mean:.3f}     {score.low:.3f} … {score.high:.3f}  {distance}"
            f"  {score.n:8d}  {len(arm.seeds):5d}"
        )
    lines += ["", *compared.comparison.verdicts]
    lines += [f"note: {warning}" for warning in compared.comparison.warnings]
    lines += [compared.promotion.sentence] if compared.promotion else []
    return [
        *lines,
        "",
        f"report   {compared.report}",
        f"picture  {compared.report.parent / 'comparison.png'}",
    ]


def study_comparison_lines(compared: CompareStudyResult) -> list[str]:
    """Return table, verdicts and the report's place of a study, for people."""
    lines = [*findings_lines(compared.reported.findings), *compared.reported.sentences]
    lines += [f"note: {note}" for note in compared.notes]
    lines += [compared.promotion.sentence] if compared.promotion else []
    return [*lines, "", f"report   {compared.reported.page}"]


def findings_lines(findings: Findings) -> list[str]:
    """Return the table of arms and the sentences."""
    width = max(len("arm"), *(len(one.title) for one in findings.variants))
    table = [f"{'arm':<{width}}  {findings.metric:<8}  95 % interval    patients  seeds"]
    table += [
        f"{one.title:<{width}}  {one.mean:<8.3f}  {one.low:.3f} … {one.high:.3f}"
        f"  {len(one.patients):8d}  {len(one.seeds):5d}"
        for one in findings.variants
    ]
    return [*table, "", *findings.verdicts]
