"""`medmim compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from medmim.cli.options import home, json_option, print_result

if TYPE_CHECKING:
    from medmim.stages.compare import Compared


@click.command(
    "compare",
    epilog="""\b
Examples:
  medmim compare                all runs comparable with the newest fine-tuning run
  medmim compare RUN RUN --json""",
)
@click.argument("runs", nargs=-1)
@json_option
def command(*, runs: tuple[str, ...], as_json: bool) -> None:
    """Compare fine-tuning runs: Dice, F1 or AP50 with intervals, paired differences, and what they show."""
    from medmim.stages.compare import compare_runs

    compared = compare_runs(runs, home=home())
    print_result(compared.as_json(), as_json=as_json, lines=comparison_lines(compared))


def comparison_lines(compared: Compared) -> list[str]:
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
    return [
        *lines,
        "",
        f"report   {compared.report}",
        f"picture  {compared.report.parent / 'comparison.png'}",
    ]
