"""`medmim masks`."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, Any

import click

from medmim.cli.next_command import data_option
from medmim.cli.options import home, json_option, out_option, path_option, print_result, sizes

if TYPE_CHECKING:
    from medmim.stages.masks.gallery import GalleryEntry, MaskGallery


@click.command(
    "masks",
    epilog="""\b
Examples:
  medmim masks                                   all masks at 0.3 … 0.9 on 14×14 cells
  medmim masks --dims 3 --grid 8,8,6
  medmim masks --mask mesh --mask random --ratio 0.7 --json
  medmim masks --data medmim-data                on the first labelled volume, with an analysis
  medmim masks --data medmim-data --model lung-segment
  medmim masks --image scan.nii.gz --dims 2""",
)
@click.option(
    "names", "--mask", multiple=True, help="Mask, or module:callable; may be repeated.  [default: all]"
)
@click.option(
    "ratios",
    "--ratio",
    type=float,
    multiple=True,
    help="Share of cells to hide; may be repeated.  [default: 0.3 … 0.9]",
)
@click.option("--dims", type=click.IntRange(2, 3), help="Spatial axes.  [default: 2; 3 on a scan]")
@click.option(
    "--grid", help="Number of mask cells along each axis, such as 14 or 8,8,6.  [default: 14×14, or 12×12×12]"
)
@path_option("--data", help="Dataset folder; draw on one of its volumes.")
@click.option("--volume", help="Id of the volume of --data.  [default: the first with a label]")
@path_option("--image", help="NIfTI file to draw on.")
@click.option(
    "--model",
    help="Encoder of the analysis: a registered NAME, a run or a .safetensors file.  "
    "[default: fixed random weights]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draws.")
@out_option("medmim-masks.png", "PNG file to write.")
@json_option
def command(
    *, as_json: bool, grid: str | None, names: tuple[str, ...], ratios: tuple[float, ...], **given: Any
) -> None:
    """Draw a gallery of masks and print their statistics: ratio, evenness, variety, hidden tissue and lesion.

    On scans, MaskAnyNet's analysis is added. It compares the masked image, and the reuse image (the hidden
    cells side by side), with the original: their entropy in bits per voxel, and the cosine similarity of an
    encoder's features. The F-score of the reuse image has another scale than in the paper.
    """
    names_of_options = ("data", "image", "volume", "dims", "model")
    data, image, volume, dims, model = (given.pop(name) for name in names_of_options)
    if data is not None and image is not None:
        raise click.UsageError("expected one of --data, --image, got both")
    if volume is not None and data is None:
        raise click.UsageError("--volume: expected --data DATASET with it")
    if model is not None and data is None and image is None:
        raise click.UsageError("--model: expected --data DATASET or --image FILE with it")
    from medmim.masks import MASKS
    from medmim.stages.masks.gallery import RATIOS, background_from_dataset, background_from_file, draw_masks

    background = None
    if model is not None:
        from medmim.stages.model_lookup import find_model

        found = find_model(model, home(), click.echo, stages=("finetune", "pretrain"))
        given["weights"] = found.weights
    if data is not None:
        background = background_from_dataset(data, volume=volume, dims=dims)
    if image is not None:
        background = background_from_file(image, dims=dims)
    cells = None if grid is None else sizes(grid, word="--grid")
    drawn = draw_masks(
        names or tuple(MASKS), ratios or RATIOS, dims=dims, grid=cells, background=background, **given
    )
    following = f"medmim pretrain{data_option(data) if data else ''} --mask {drawn.entries[0].mask}"
    print_result(drawn.as_json(), as_json=as_json, lines=table_lines(drawn), following=following)


def table_lines(drawn: MaskGallery) -> list[str]:
    """Return the statistics as lines of a table, without empty columns."""
    columns = {
        "realised_ratio": "hidden",
        "density_variance": "unevenness",
        "num_distinct": "distinct",
        "draw_ms": "draw ms",
        "distance_to_visible": "distance",
        "tissue_hidden": "tissue",
        "lesion_hidden": "lesion",
        "lesion_lost": "lesion lost",
        "masked_entropy": "masked ΔH",
        "reuse_entropy": "reuse ΔH",
        "masked_similarity": "masked alike",
        "reuse_similarity": "reuse alike",
        "f_score": "F-score",
    }
    rows = [(entry, {**dict.fromkeys(columns), **_values(entry)}) for entry in drawn.entries]
    columns = {key: title for key, title in columns.items() if any(row[key] is not None for _, row in rows)}
    width = max(len("mask"), *(len(entry.mask) for entry in drawn.entries))
    lines = [f"{'mask':<{width}}  ratio  " + "  ".join(columns.values())]
    for entry, row in rows:
        texts = {
            key: one if isinstance(one, str) else f"{nan if one is None else one:.4f}"
            for key, one in row.items()
        }
        cells = [f"{texts[key]:>{len(title)}}" for key, title in columns.items()]
        lines.append(f"{entry.mask:<{width}}  {entry.statistics.requested_ratio:5.2f}  " + "  ".join(cells))
    return [*lines, "", f"picture  {drawn.picture}"]


def _values(entry: GalleryEntry) -> dict[str, Any]:
    distinct = f"{entry.variety.num_distinct}/{entry.variety.num_draws}"
    analysis = entry.analysis.as_json() if entry.analysis else {}
    more = {"num_distinct": distinct, "draw_ms": entry.variety.draw_ms}
    return {**entry.statistics.as_json(), **more, **analysis}
