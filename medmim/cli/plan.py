"""`medmim plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from medmim.cli.early_checks import NAMES
from medmim.cli.options import given, home, json_option, note_run, planning_options, print_result
from medmim.cli.progress import log_line

if TYPE_CHECKING:
    from medmim.config.runs import RunSettings


@click.command(
    "plan",
    epilog="""\b
Examples:
  medmim plan pretrain
  medmim plan segment --machine gpu_24gb         what the recipe chooses for another machine
  medmim plan pretrain --method mae --batch-size 32
  medmim plan pretrain --config spark_random --set batch_size=8
  medmim plan detect --set init=scratch --batch-size 16 --json""",
)
@click.argument("stage", metavar="STAGE", type=click.Choice(["pretrain", "finetune", *NAMES["task"]]))
@click.option("--method", help="Pretraining method.  [default: spark]")
@click.option("--mask", help="Mask of pretraining.  [default: the method's, or mesh]")
@click.option("--ratio", type=float, help="Mask ratio of pretraining.  [default: the method's, or 0.7]")
@click.option("--task", help="Task of fine-tuning, such as segment or classify.  [default: segment]")
@click.option(
    "--machine",
    type=click.Choice(["laptop", "gpu_12gb", "gpu_24gb"]),
    help="Print the recipe for this machine only; memory is predicted.  [default: this machine, measured]",
)
@planning_options
@json_option
def command(
    *,
    stage: str,
    as_json: bool,
    config: str | None,
    overrides: tuple[str, ...],
    **flags: Any,
) -> None:
    """Choose encoder, patch, batch and length of a run of STAGE, and predict its memory and hours.

    STAGE is pretrain, a task (segment, classify, detect, regress, ordinal or multilabel), or finetune with
    --task. The recipe is printed with the reason for each choice; `pretrain` and `finetune` use it for every
    setting that you do not give. Give `plan` the options of the run; `--set` takes those that are not listed.
    Two trial runs of a few steps, with an evaluation and a saved state, are measured in a minute or two;
    nothing is recorded.
    """
    settings = _settings(stage, given(flags), config=config, overrides=overrides)
    note_run(settings)
    from medmim.stages.plan.run import choices_for, plan, refuse_too_large

    choices = choices_for(settings)
    table = [f"recipe   {choice.line()}" for choice in choices]
    chosen = {choice.setting: choice.value for choice in choices}
    following = f"medmim {stage if stage in ('pretrain', 'finetune') else f'finetune {stage}'}"
    following += ", with the same options"
    if flags.get("machine"):
        print_result({"recipe": chosen}, as_json=as_json, lines=table, following=following)
        return
    log_line("timing     two trial runs of 6 steps, about a minute each; nothing is recorded")
    planned = plan(settings, home=home())
    hours = planned.hours
    duration = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
    lines = [
        *table,
        f"memory   {planned.peak_mb:.0f} MiB of {planned.free_mb:.0f} MiB free ({planned.device})",
        f"time     {duration} of training, evaluations not counted",
    ]
    if planned.fits:
        lines.append("fits     yes")
    elif planned.proposed_batch_size is not None:
        options = f"--batch-size {planned.proposed_batch_size} --set accumulate={planned.proposed_accumulate}"
        lines.append(f"fits     no: use {options}")
    print_result({**planned.as_json(), "recipe": chosen}, as_json=as_json, lines=lines, following=following)
    refuse_too_large(planned)


def _settings(stage: str, flags: dict[str, Any], **words: Any) -> RunSettings:
    """Return the settings of the run of a stage or of a fine-tuning task."""
    from medmim.config.runs import FinetuneSettings, PretrainSettings
    from medmim.config.yaml_settings import resolve

    if stage == "pretrain":
        return resolve(PretrainSettings, base=flags.get("method"), flags=flags, **words)
    if stage in NAMES["task"] and flags.setdefault("task", stage) != stage:
        raise click.UsageError(f"plan {stage} --task {flags['task']}: expected one task; leave out --task")
    return resolve(FinetuneSettings, base=flags.get("task"), flags=flags, **words)
