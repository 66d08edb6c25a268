"""Brain tumours, end to end: ingest → pretrain → classify, detect, segment from it and scratch → compare.

python pipelines/brain_tumour.py SOURCE [--minutes 45] [--tasks classify]

SOURCE is a folder of the figshare brain tumour slices: images, and annotations.jsonl with classes, boxes and
outlines.
"""

from __future__ import annotations

from pathlib import Path

import click

import medmim

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
        medmim.ingest(source, data, layout="figshare_brain_tumor", home=home)
    runs: dict[str, list[str]] = {task: [] for task in tasks.split(",")}
    for seed in range(seeds):
        shared = {"data": data, "dims": 2, "size": SIZE, "seed": seed, **ENCODER}
        pretrained = medmim.pretrain(
            **shared, minutes=pretrain_minutes or minutes / 3, batch_size=16, home=home
        )
        for task, ids in runs.items():
            for init in (pretrained.run_id, "scratch"):
                ids.append(medmim.finetune(task, **shared, init=init, minutes=minutes, home=home).run_id)
    for task, ids in runs.items():
        click.echo(f"\n{task}")
        click.echo(str(medmim.compare(*ids, home=home)))


if __name__ == "__main__":
    main()
