"""`medmim methods`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from medmim.cli.options import aligned, json_option, print_result

if TYPE_CHECKING:
    from medmim.stages.methods import MethodRow


@click.command(
    "methods",
    epilog="""\b
Examples:
  medmim methods
  medmim methods --dims 3 --json""",
)
@click.option(
    "--dims", type=click.IntRange(2, 3), default=2, show_default=True, help="Dimensions of the images."
)
@json_option
def command(*, dims: int, as_json: bool) -> None:
    """Print the table of pretraining methods in the survey's taxonomy, with sizes and options."""
    from medmim.stages.methods import list_methods

    rows = list_methods(dims)
    result = {"dims": dims, "methods": [row.as_json() for row in rows]}
    print_result(result, as_json=as_json, lines=method_lines(rows), following="medmim pretrain --method NAME")


def method_lines(rows: list[MethodRow]) -> list[str]:
    """Return the lines of the table and its notes."""
    titles = ("method", "objective", "target", "architecture", "masking", "encoder", "trained", "kept")
    cells = [
        (
            *(row.method, row.objective, row.target, row.architecture),
            *(f"{row.mask} {row.ratio:g}", row.encoder),
            *(f"{count / 1e6:.2f} M" for count in (row.parameters, row.encoder_parameters)),
        )
        for row in rows
    ]
    options = [
        f"{row.method}: " + ", ".join(f"{key}={value}" for key, value in row.options.items()) for row in rows
    ]
    return [
        *aligned([titles, *cells]),
        "",
        "masking: the default; every method works with every mask of `medmim masks`, but volume_fusion and",
        "  voco hide nothing: their mask only seeds random draws",
        "task: every method supports segmentation, detection and classification in `medmim finetune`",
        "options, --set method_options.NAME=VALUE:",
        *(f"  {line}" for line in options),
    ]
