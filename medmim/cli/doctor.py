"""`medmim doctor`."""

from __future__ import annotations

import click

from medmim.cli.options import home, json_option, print_result

_SIGNS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@click.command(
    "doctor",
    epilog="""\b
Examples:
  medmim doctor
  medmim doctor --json""",
)
@json_option
def command(*, as_json: bool) -> None:
    """Say what this machine has and lacks: versions, devices, decoders, disk, key file, tracking server.

    Each line that is not ok says what to do. Exit code 1 if anything must be fixed.
    """
    from medmim.stages.doctor.run import doctor, refuse_bad

    result = doctor(home())
    lines = []
    for check in result.checks:
        lines.append(f"{_SIGNS[check.status]}  {check.name:<24}  {check.found}")
        lines += [f"      → {check.advice}"] if check.advice else []
    print_result(result.as_json(), as_json=as_json, lines=lines)
    refuse_bad(result)
