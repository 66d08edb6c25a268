"""`medmim plan`."""

from __future__ import annotations

from typing import Any

import click

from medmim.cli.options import given, home, json_option, print_result, run_options


@click.command(
    "plan",
    epilog="""\b
Examples:
  medmim plan pretrain
  medmim plan pretrain --config spark_random --set batch_size=8
  medmim plan finetune --set init=scratch --batch-size 16 --json""",
)
@click.argument("stage", type=click.Choice(["pretrain", "finetune"]))
@run_options
@json_option
def command(
    *,
    stage: str,
    as_json: bool,
    config: str | None,
    overrides: tuple[str, ...],
    resume: str | None,
    **flags: Any,
) -> None:
    """Predict memory and hours of a run of STAGE, and propose a batch size that fits.

    Takes the words of the run; `--set` gives those that are not listed. Rehearses a few steps, which takes a
    minute or two; nothing is recorded.
    """
    if resume:
        raise click.UsageError("--resume: a resumed run takes what it took; leave it out")
    from medmim.config import FinetuneSettings, PretrainSettings
    from medmim.settings import resolve

    kind = PretrainSettings if stage == "pretrain" else FinetuneSettings
    settings = resolve(kind, config=config, flags=given(flags), overrides=overrides)
    from medmim.stages.plan import plan, refuse_too_large

    planned = plan(settings, home=home())
    lines = [
        f"memory   {planned.peak_mb:.0f} MiB of {planned.free_mb:.0f} MiB free ({planned.device})",
        f"time     {planned.hours:.2f} hours of training, evaluations not counted",
    ]
    if planned.fits:
        lines.append("fits     yes")
    elif planned.proposed_batch_size is not None:
        words = f"--batch-size {planned.proposed_batch_size} --set accumulate={planned.proposed_accumulate}"
        lines.append(f"fits     no: use {words}")
    print_result(planned.as_json(), as_json=as_json, lines=lines)
    refuse_too_large(planned)
