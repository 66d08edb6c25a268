"""`medmim export`."""

from __future__ import annotations

from pathlib import Path

import click

from medmim.cli.options import home, json_option, model_option, print_result


@click.command(
    "export",
    epilog="""\b
Examples:
  medmim export --format bundle                  the champion, for python -m monai.bundle run
  medmim export --format onnx --model lung-segment --out lung.onnx
  medmim export --format safetensors             the encoder alone, for --init
  medmim export --datalist --data medmim-data    MONAI's datalist of a dataset""",
)
@click.option(
    "form",
    "--format",
    type=click.Choice(["bundle", "onnx", "safetensors", "datalist"]),
    help="What to write.",
)
@click.option("form", "--datalist", flag_value="datalist", help="The same as --format datalist.")
@model_option
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default="medmim-data",
    show_default=True,
    help="Dataset folder, with the case for the comparison with PyTorch.",
)
@click.option("--out", type=click.Path(path_type=Path), help="File or folder to write.")
@json_option
def command(*, form: str | None, model: str | None, data: Path, out: Path | None, as_json: bool) -> None:
    """Write a model for other programs, after comparing it with PyTorch on a real case."""
    if form is None:
        raise click.UsageError("--format: expected bundle, onnx, safetensors or datalist")
    from medmim.stages.export.run import export

    result = export(
        form,
        data=data,
        home=home(),
        model=model,
        out=out,
        log=lambda line: click.echo(line, err=True),
    )
    lines = [f"written      {result.path}"]
    if result.difference is not None:
        lines.append(f"difference   {result.difference:.1e} at most from PyTorch, on a case of '{data}'")
    print_result(result.as_json(), as_json=as_json, lines=lines)
