"""`medmim finetune`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medmim.cli.next_command import next_control
from medmim.cli.options import (
    aligned,
    finetuning_options,
    given,
    home,
    json_option,
    note_server,
    print_result,
    run_settings,
)
from medmim.cli.progress import log_line
from medmim.cli.settings import SettingsCommand

if TYPE_CHECKING:
    from medmim.config.runs import FinetuneSettings
    from medmim.stages.run_lifecycle import RunResult


@click.command(
    "finetune",
    cls=SettingsCommand,
    epilog="""\b
Examples:
  medmim finetune segment                        from the newest pretraining run
  medmim finetune segment --init scratch         the control: same split, steps and seed
  medmim finetune segment --num-labelled 10 --minutes 7
  medmim finetune segment --seeds 0,1,2          one run for each seed, as claims need two or more
  medmim finetune classify --size 128            one class for each image; several: task multilabel
  medmim finetune detect --size 128              boxes around findings
  medmim finetune classify --set mode=linear_probe      the head alone, on a frozen encoder
  medmim finetune regress --targets ages.csv --column age     a number for each image
  medmim finetune ordinal --targets grades.csv --column grade   ordered grades, such as 0 to 4
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
@click.option(
    "--num-labelled", type=int, help="Train on this many labelled patients; a larger number includes them."
)
@click.option("--labelled", type=int, hidden=True)  # the name of 0.1.0, accepted for one release
@click.option(
    "--label-fraction",
    type=float,
    help="Train on this share of the labelled patients; a larger share includes them.",
)
@click.option(
    "--seeds",
    metavar="N,N,…",
    help="Train one run for each seed, such as 0,1,2, from the same weights; finished ones are not repeated, "
    "interrupted ones continue.",
)
@finetuning_options
@json_option
def command(
    *,
    as_json: bool,
    config: str | None,
    overrides: tuple[str, ...],
    resume: str | None,
    seeds: str | None,
    **flags: Any,
) -> None:
    """Fine-tune an encoder for TASK (such as segment), test it and register the model."""
    values = given(flags)
    if seeds and any(word.partition("=")[0].strip() == "seed" for word in overrides):
        raise click.UsageError("--seeds: expected no --set seed=… besides")
    if seeds and (resume or "seed" in values):
        raise click.UsageError("--seeds: expected neither --seed nor --resume; interrupted seeds continue")
    if not resume and "task" not in values:
        raise click.UsageError("expected TASK, such as segment in `medmim finetune segment`")
    from medmim.config.runs import FinetuneSettings
    from medmim.config.yaml_settings import resolve

    words: dict[str, Any] = {"config": config, "overrides": overrides}
    if seeds:
        note_server()
        settings = resolve(FinetuneSettings, base=values.get("task"), flags=values, **words)
        _fine_tune_seeds(settings, seeds, values, overrides, config, as_json=as_json)
        return
    settings, resume = run_settings(FinetuneSettings, "finetune", values, **words, resume=resume)
    from medmim.stages.finetune.run import finetune

    result = finetune(settings, home=home(), resume=resume, log=log_line)
    following = next_control(settings, values, overrides, config, result.checkpoint)
    print_result(result.as_json(), as_json=as_json, lines=_result_lines(result), following=following)


def _result_lines(result: RunResult) -> list[str]:
    from medmim.training.evaluation.metric_intervals import caveat

    return [
        f"run      {result.run_id}",
        f"weights  {result.checkpoint}",
        f"picture  {result.panel}",
        *(f"scores   {figure}" for figure in [result.panel.with_name("scores.png")] if figure.is_file()),
        *map(_score, result.scores),
        *(f"note     {text}" for text in filter(None, [caveat(result.scores)])),
    ]


def _fine_tune_seeds(
    settings: FinetuneSettings,
    seeds: str,
    values: Mapping[str, Any],
    overrides: Sequence[str],
    config: str | None,
    *,
    as_json: bool,
) -> None:
    """Train one run for each seed; print their scores and the next command."""
    from medmim.stages.train_seeds import fine_tune_seeds
    from medmim.tracking.mlflow_store import Store
    from medmim.training.weights import WEIGHTS

    words = [word.strip() for word in seeds.split(",")]
    if not all(word.isdecimal() for word in words):
        raise click.UsageError(f"--seeds: expected numbers from 0, such as 0,1,2; got '{seeds}'")
    chosen = list(dict.fromkeys(map(int, words)))
    runs = fine_tune_seeds(settings, chosen, home=home(), log=log_line)
    rows = [(run, row) for run in runs for row in run.scores if row["metric"] == run.tags["metric"]]
    found = [{"seed": run.seed, "run_id": run.run_id, **row} for run, row in rows]
    table = [["seed", "run", runs[0].tags["metric"], "95 % interval", "test patients"]]
    for run, row in rows:
        table.append([str(run.seed), run.run_id, f"{row['value']:.3f}", _interval(row), str(row["patients"])])
    scores = [row["value"] for row in found]
    spread = f" (sd of seeds {statistics.stdev(scores):.4f})" if len(scores) > 1 else ""
    lines = [*aligned(table), *([f"mean     {statistics.mean(scores):.3f}{spread}"] if scores else [])]
    weights = Store(home(), reading=True).checkpoints(runs[0].run_id) / WEIGHTS
    following = next_control(settings, {**values, "seeds": seeds}, overrides, config, weights)
    print_result({"seeds": found}, as_json=as_json, lines=lines, following=following)


def _score(row: Mapping[str, Any]) -> str:
    """Return a line with a test metric and its confidence interval."""
    about = f"{_interval(row)} (95 % interval, test patients: {row['patients']})"
    return f"test/{row['metric']:<24} {row['value']:.3f}   {about}"


def _interval(row: Mapping[str, Any]) -> str:
    return "none" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
