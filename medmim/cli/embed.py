"""`medmim embed`."""

from __future__ import annotations

from pathlib import Path

import click

from medmim.cli.next_command import data_option
from medmim.cli.options import dataset_option, home, json_option, model_option, out_option, print_result
from medmim.cli.progress import log_line
from medmim.errors import counted


@click.command(
    "embed",
    epilog="""\b
Examples:
  medmim embed --model 3f2a                      features of medmim-data from a pretraining run
  medmim embed --model lung-segment --data other --out lung.parquet""",
)
@model_option
@dataset_option()
@out_option("embeddings.parquet", "Parquet file; the picture is written next to it.")
@json_option
def command(*, model: str | None, data: Path, out: Path, as_json: bool) -> None:
    """Write one feature vector for each image of a dataset, and a picture of their principal components.

    The Parquet file has a row for each image: key, subject, split, class and vector (the means of all maps of
    the encoder). The picture is coloured by class, or by split in datasets without classes. --model may be a
    pretraining run.
    """
    from medmim.stages.embed import embed

    result = embed(data=data, home=home(), model=model, out=out, log=log_line)
    lines = [
        f"written      {result.out}: {counted(result.images, 'image')}, {counted(result.width, 'feature')}"
    ]
    lines += [f"picture      {result.picture}"] if result.picture else []
    following = f"medmim finetune classify{data_option(data)}"
    print_result(result.as_json(), as_json=as_json, lines=lines, following=following)
