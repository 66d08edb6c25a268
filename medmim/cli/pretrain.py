"""`medmim pretrain`."""

from __future__ import annotations

from typing import Any

import click

from medmim.cli.next_command import next_finetuning
from medmim.cli.options import (
    given,
    home,
    json_option,
    pretraining_options,
    print_result,
    run_settings,
)
from medmim.cli.progress import log_line
from medmim.cli.settings import SettingsCommand


@click.command(
    "pretrain",
    cls=SettingsCommand,
    epilog="""\b
Examples:
  medmim pretrain
  medmim pretrain --mask mesh --ratio 0.7 --minutes 30
  medmim pretrain --dims 2 --size 160 --encoder resnet18 --mask random
  medmim pretrain --cell 8mm,8mm,10mm            rounded to the encoder's stride; the size is printed
  medmim pretrain --encoder my_package.nets:build --compute masked
  medmim pretrain --config spark_random --set batch_size=8
  medmim pretrain --method mae                   with its usual mask
  medmim pretrain --method contrastive --mask mesh --ratio 0.7
  medmim pretrain --method simmim --encoder swin --set method_options.target=hog
  medmim pretrain --config latent_mim_code --minutes 30
  medmim pretrain --init openmind_resenc_l.pth   continue from public weights
  medmim pretrain --init 3f2a                    continue from a run, with its decoder
  medmim pretrain --channels t1,flair --set hide_channels=0.3
  medmim pretrain --data a --data b --set data_weights=2,1
  medmim pretrain --resume""",
)
@click.option(
    "--method", help="Pretraining method; `medmim methods` lists them with their masks.  [default: spark]"
)
@click.option(
    "--mask",
    help="Mask; `medmim masks` shows them all, or module:callable.  [default: the method's, or mesh]",
)
@click.option("--ratio", type=float, help="Share of mask cells to hide.  [default: the method's, or 0.7]")
@click.option(
    "--cell",
    help="Mask cell in voxels, such as 8 or 8,8,4, or in mm, such as 8mm.  [default: the encoder's stride]",
)
@click.option(
    "--compute",
    type=click.Choice(["packed", "masked"]),
    help="Compute visible cells only, or all voxels and mask them; results are equal.  [default: packed]",
)
@click.option(
    "--init",
    help="Continue from a run, or from a weights file of any origin (`medmim weights FILE`).  "
    "[default: scratch]",
)
@pretraining_options
@json_option
def command(
    *, as_json: bool, config: str | None, overrides: tuple[str, ...], resume: str | None, **flags: Any
) -> None:
    """Pretrain an encoder: hide part of each scan and learn to predict it. Prints the id of the run."""
    from medmim.config.runs import PretrainSettings

    words: dict[str, Any] = {"config": config, "overrides": overrides, "resume": resume}
    settings, resume = run_settings(PretrainSettings, "pretrain", given(flags), **words)
    from medmim.stages.pretrain.run import pretrain

    result = pretrain(settings, home=home(), resume=resume, log=log_line)
    lines = [
        f"run      {result.run_id}",
        f"weights  {result.checkpoint}",
        f"picture  {result.panel}",
        *alarm_lines(result.metrics),
    ]
    following = next_finetuning(settings.data, settings.encoder)
    print_result(result.as_json(), as_json=as_json, lines=lines, following=following)


_ALARMS = {
    "last/alarm_collapse": "alarm    collapse: the features of all voxels, or all targets, have become alike",
    "last/alarm_leak": "alarm    leak: hidden cells are predicted implausibly well; try larger cells",
}


def alarm_lines(metrics: dict[str, float]) -> list[str]:
    """Return a line for each alarm of the last evaluation."""
    return [line for key, line in _ALARMS.items() if metrics.get(key)]
