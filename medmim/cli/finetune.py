"""`medmim finetune`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medmim.cli.options import (
    data_option,
    finetuning_options,
    given,
    home,
    json_option,
    note_run,
    note_server,
    print_result,
    refuse_with_resume,
    where_it_runs,
)
from medmim.cli.progress import log_line
from medmim.cli.settings_help import SettingsCommand

if TYPE_CHECKING:
    from medmim.config.runs import FinetuneSettings


@click.command(
    "finetune",
    cls=SettingsCommand,
    epilog="""\b
Examples:
  medmim finetune segment                        from the newest pretraining run
  medmim finetune segment --init scratch         the control: same split, steps and seed
  medmim finetune segment --num-labelled 10 --minutes 7
  medmim finetune classify --size 128            one class for each image; several: task multilabel
  medmim finetune detect --size 128              boxes around findings
  medmim finetune classify --set mode=linear_probe      the head alone, on a frozen encoder
  medmim finetune regress --targets ages.csv --column age     a number for each image
  medmim finetune segment --init 3f2a --fold 1
  medmim finetune segment --init medicalnet_resnet18.pth""",
)
@click.argument("task", required=False)
@click.option(
    "--init",
    help="scratch, a pretraining run, or a weights file of any origin (`medmim weights FILE`).  "
    "[default: newest pretraining run]",
)
@click.option(
    "--targets",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV file with a class or number for each volume or patient (key: volume, subject or patient).",
)
@click.option("--column", help="Column of --targets, such as age.")
@click.option("--num-labelled", type=int, help="Train on this many labelled patients (nested).")
@click.option("--labelled", type=int, hidden=True)  # the name of 0.1.0, accepted for one release
@click.option("--label-fraction", type=float, help="Train on this share of the labelled patients (nested).")
@finetuning_options
@json_option
def command(
    *, as_json: bool, config: str | None, overrides: tuple[str, ...], resume: str | None, **flags: Any
) -> None:
    """Fine-tune an encoder for TASK (segment, classify, detect, regress), test it and register the model."""
    values = given(flags)
    if not resume and "task" not in values:
        raise click.UsageError("expected TASK, such as segment in `medmim finetune segment`")
    from medmim.config.resolve import resolve
    from medmim.config.runs import FinetuneSettings

    note_server()
    settings = resolve(
        FinetuneSettings, base=values.get("task"), config=config, flags=values, overrides=overrides
    )
    if resume:
        refuse_with_resume(values, overrides, config)
        from medmim.stages.run_lifecycle import to_resume

        changed = where_it_runs(settings, values, overrides)
        settings, resume = to_resume(
            FinetuneSettings,
            "finetune",
            resume,
            home=home(),
            data=values.get("data"),
            task=values.get("task"),
        )
        settings = settings.model_copy(update=changed)
    note_run(settings)
    from medmim.stages.finetune.run import finetune

    result = finetune(settings, home=home(), resume=resume, log=log_line)
    lines = [
        f"run      {result.run_id}",
        f"weights  {result.checkpoint}",
        f"picture  {result.panel}",
        *(f"scores   {figure}" for figure in [result.panel.with_name("scores.png")] if figure.is_file()),
        *map(_score, result.scores),
        f"next     {_next(settings)}",
    ]
    print_result(result.as_json(), as_json=as_json, lines=lines)


def _next(settings: FinetuneSettings) -> str:
    """Return the command to run next: the control, or the comparison."""
    if settings.init == "scratch":
        return "medmim compare"
    return f"medmim finetune {settings.task} --init scratch{data_option(settings.data)}, then medmim compare"


def _score(row: Mapping[str, Any]) -> str:
    """Return a line with a test metric and its confidence interval."""
    interval = "none" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
    interval = f"{interval} (95 % interval, test patients: {row['patients']})"
    return f"test/{row['metric']:<24} {row['value']:.3f}   {interval}"
