"""`medmim demo`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from medmim.cli.compare import comparison_lines
from medmim.cli.options import json_option, out_option, print_result
from medmim.cli.progress import log_line


@click.command(
    "demo",
    epilog="""\b
Examples:
  medmim demo
  medmim demo --patients 12 --pretrain-steps 20 --finetune-steps 20""",
)
@out_option("medmim-demo")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the scans and of training.")
@click.option(
    "--patients",
    type=click.IntRange(min=5),
    default=40,
    show_default=True,
    help="Number of synthetic patients.",
)
@click.option(
    "--pretrain-steps",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Steps of pretraining.",
)
@click.option(
    "--finetune-steps",
    type=click.IntRange(min=1),
    default=900,
    show_default=True,
    help="Steps of each fine-tuning.",
)
@json_option
def command(
    *, out: Path, seed: int, patients: int, pretrain_steps: int, finetune_steps: int, as_json: bool
) -> None:
    """Run the whole pipeline on generated DICOM; no download, a few minutes on two CPU cores."""
    from medmim.stages.demo import demo

    made = demo(
        out,
        seed=seed,
        patients=patients,
        pretrain_steps=pretrain_steps,
        finetune_steps=finetune_steps,
        say=log_line,
    )
    panels = {name: str(path) for name, path in made.panels.items()}
    lines = [
        *comparison_lines(made.compared),
        *(f"panel    {path}" for path in panels.values()),
    ]
    print_result(
        {**made.compared.as_json(), "panels": panels, "home": str(made.home)},
        as_json=as_json,
        lines=lines,
        following=f"MEDMIM_HOME={shlex.quote(str(made.home))} medmim ui",
    )
