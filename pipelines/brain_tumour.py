"""Brain tumours, end to end: ingest → pretrain → classify, detect, segment from it and scratch → compare.

python pipelines/brain_tumour.py SOURCE [--minutes 45] [--tasks classify]

SOURCE is a folder of the figshare brain tumour slices: images, and annotations.jsonl with classes, boxes and
outlines.
"""

from __future__ import annotations

from pathlib import Path

import click

from medmim.cli.compare import comparison_lines
from medmim.config.resolve import resolve
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.stages.compare import compare_runs
from medmim.stages.finetune.run import finetune
from medmim.stages.ingest import ingest
from medmim.stages.pretrain.run import pretrain

SIZE = (128, 128)
# half as wide as ResNet-18: on a processor, more passes over a small set are worth more than width
ENCODER = {"encoder": "resnet18", "encoder_options": {"widths": [32, 64, 128, 256]}}
TASKS = ("classify", "detect", "segment")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default="brain-tumour-study", show_default=True)
@click.option("--minutes", type=float, default=45, show_default=True, help="Each fine-tuning.")
@click.option("--pretrain-minutes", type=float, help="[default: a third of --minutes]")
@click.option("--tasks", default=",".join(TASKS), show_default=True, help="Some of them, with commas.")
@click.option("--seeds", type=int, default=1, show_default=True)
def main(
    *, source: Path, out: Path, minutes: float, pretrain_minutes: float | None, tasks: str, seeds: int
) -> None:
    """Run the study and print the comparison of each task."""
    data, home = out / "dataset", out / "medmim-runs"
    if not (data / "dataset.json").is_file():
        ingest(source, data, layout="figshare_brain_tumor", home=home)
    runs: dict[str, list[str]] = {task: [] for task in tasks.split(",")}
    for seed in range(seeds):
        shared = {"data": data, "dims": 2, "size": SIZE, "seed": seed, **ENCODER}
        pretrained = pretrain(
            PretrainSettings(**shared, minutes=pretrain_minutes or minutes / 3, batch_size=16), home=home
        )
        for task, ids in runs.items():
            for init in (pretrained.run_id, "scratch"):
                flags = {**shared, "task": task, "init": init, "minutes": minutes}
                settings = resolve(FinetuneSettings, base=task, flags=flags)
                ids.append(finetune(settings, home=home).run_id)
    for task, ids in runs.items():
        click.echo(f"\n{task}")
        for line in comparison_lines(compare_runs(ids, home=home)):
            click.echo(line)


if __name__ == "__main__":
    main()
