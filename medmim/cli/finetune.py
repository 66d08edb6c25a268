"""`medmim finetune`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medmim.cli.options import (
    DEFAULT_DATA,
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
        f"next     {next_command(settings, values, overrides, config, result.checkpoint)}",
    ]
    print_result(result.as_json(), as_json=as_json, lines=lines)


def next_command(
    settings: FinetuneSettings,
    values: Mapping[str, Any],
    overrides: Sequence[str],
    config: str | None,
    weights: Path,
) -> str:
    """Return the command to run next: the comparison, or the control with the same options and encoder."""
    if settings.init == "scratch":
        return "medmim compare"
    kept: dict[str, Any] = {} if settings.data == Path(DEFAULT_DATA) else {"data": settings.data}
    omitted = ("task", "init", "init_map", "data")
    kept |= {key: value for key, value in values.items() if key not in omitted}
    used = json.loads(weights.with_name("weights.json").read_text("utf-8"))
    if "encoder" not in kept and not _is_default_encoder(settings, used):
        kept["encoder"] = used["encoder"]
        options = used["encoder_options"].items()
        overrides = (*overrides, *(f"encoder_options.{key}={json.dumps(value)}" for key, value in options))
    words = [f"--config={config}"] if config else []
    for key, value in kept.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += [f"--{key.replace('_', '-')}", text]
    words += [word for override in overrides for word in ("--set", override)]
    control = shlex.join(["medmim", "finetune", settings.task, "--init", "scratch", *words])
    return f"{control}, then medmim compare"


def _is_default_encoder(settings: FinetuneSettings, used: Mapping[str, Any]) -> bool:
    """Return whether training from scratch would use the encoder of these weights by itself."""
    from medmim.data.dataset.manifest import read_dataset
    from medmim.data.dataset.partition import partition
    from medmim.training.recipe import with_recipe

    volumes = partition(read_dataset(settings.data), fold=settings.fold).train
    control = type(settings)(task=settings.task, data=settings.data, fold=settings.fold)
    alone = with_recipe(control, volumes, dims=used["spatial_dims"])
    return (alone.encoder, alone.encoder_options) == (used["encoder"], used["encoder_options"])


def _score(row: Mapping[str, Any]) -> str:
    """Return a line with a test metric and its confidence interval."""
    interval = "none" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
    interval = f"{interval} (95 % interval, test patients: {row['patients']})"
    return f"test/{row['metric']:<24} {row['value']:.3f}   {interval}"
