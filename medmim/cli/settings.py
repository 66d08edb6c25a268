"""`medmim settings`, and commands whose `--help` also lists the settings of the task on the command line."""

from __future__ import annotations

from dataclasses import asdict
from textwrap import wrap
from typing import TYPE_CHECKING

import click

from medmim.cli.options import json_option, print_result

if TYPE_CHECKING:
    from medmim.config.reference import SettingDescription


_WORDS = "medmim.words"  # in the context: the arguments, which click has not parsed when it prints the help
TASKS = ("segment", "classify", "detect", "multilabel", "ordinal", "regress")


class SettingsCommand(click.Command):
    """A command with a section of settings in its help, except those that have an option of their own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments for the help."""
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the settings of the task."""
        super().format_options(ctx, formatter)
        from medmim.config.reference import settings_of
        from medmim.config.runs import RunSettings

        words = ctx.meta.get(_WORDS, [])
        task = next((word for word in words if word in TASKS), None)
        if self.name == "pretrain":
            task = "pretrain"
        if task is None:
            return
        options = {option.name for option in self.params}
        rows: list[tuple[str, str]] = [
            (one.name, f"{one.meaning}{f'  [default: {one.default}]' if one.default else ''}")
            for one in settings_of(task)
            if one.name not in options and one.name not in RunSettings.model_fields
        ]
        with formatter.section(f"Settings of {task} (--set NAME=VALUE; all: medmim settings {task})"):
            formatter.write_dl(rows)


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
    command = task if task in ("pretrain", "study") else f"finetune {task}"
    print_result(
        {"task": task, "settings": [asdict(one) for one in found]},
        as_json=as_json,
        lines=lines,
        following=f"medmim {command} --set NAME=VALUE",
    )


def _lines(one: SettingDescription) -> list[str]:
    default = f"   [default: {one.default}]" if one.default else ""
    meaning = wrap(one.meaning, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return [f"{one.name}   {one.type}{default}", *meaning]
