"""`medmim settings`."""

from __future__ import annotations

from dataclasses import asdict
from textwrap import wrap
from typing import TYPE_CHECKING

import click

from medmim.cli.options import json_option, print_result
from medmim.cli.settings_help import TASKS

if TYPE_CHECKING:
    from medmim.config.reference import SettingDescription

_WIDTH = 100


@click.command(
    "settings",
    epilog="""\b
Examples:
  medmim settings segment
  medmim settings pretrain --json""",
)
@click.argument("task", type=click.Choice(["pretrain", *TASKS, "study"]))
@json_option
def command(*, task: str, as_json: bool) -> None:
    """List every setting of TASK with its type, default and meaning.

    Change a setting with `--set NAME=VALUE`, in a YAML file (`--config FILE`), or as a keyword argument in
    Python.
    """
    from medmim.config.reference import settings_of

    found = settings_of(task)
    lines = [line for one in found for line in _lines(one)]
    print_result({"task": task, "settings": [asdict(one) for one in found]}, as_json=as_json, lines=lines)


def _lines(one: SettingDescription) -> list[str]:
    default = f"   [default: {one.default}]" if one.default else ""
    meaning = wrap(one.meaning, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return [f"{one.name}   {one.type}{default}", *meaning]
