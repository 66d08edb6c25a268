"""Hippocampus, end to end: ingest → pretrain → fine-tune from it and from scratch → compare.

python pipelines/hippocampus.py SOURCE [--num-labelled 10] [--minutes 7]

SOURCE is the folder of the Medical Segmentation Decathlon's Task04 (imagesTr, labelsTr).
"""

from __future__ import annotations

from pathlib import Path

import click

import medmim


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default="hippocampus-study", show_default=True)
@click.option("--pretrain-minutes", type=float, default=5, show_default=True)
@click.option("--minutes", type=float, default=7, show_default=True, help="Fine-tuning, each arm.")
@click.option("--num-labelled", type=int, help="Train on this many labelled patients.")
@click.option("--seeds", type=int, default=1, show_default=True)
def main(
    *, source: Path, out: Path, pretrain_minutes: float, minutes: float, num_labelled: int | None, seeds: int
) -> None:
    """Run the study and print its comparison."""
    data, home = out / "dataset", out / "medmim-runs"
    if not (data / "dataset.json").is_file():
        medmim.ingest(source, data, layout="msd", home=home)
    for seed in range(seeds):
        pretrained = medmim.pretrain(
            data=data, mask="mesh", ratio=0.7, minutes=pretrain_minutes, seed=seed, home=home
        )
        for init in (pretrained.run_id, "scratch"):
            settings = {"init": init, "minutes": minutes, "num_labelled": num_labelled, "seed": seed}
            medmim.finetune("segment", data=data, home=home, **settings)
    click.echo(str(medmim.compare(home=home)))


if __name__ == "__main__":
    main()
