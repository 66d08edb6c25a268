"""`medmim export`."""

from __future__ import annotations

from pathlib import Path

import click

from medmim.cli.options import dataset_option, home, json_option, model_option, path_option, print_result
from medmim.cli.progress import log_line

_DATALISTS = {"monai": "datalist", "nnunet": "nnunet-raw"}


@click.command(
    "export",
    epilog="""\b
Examples:
  medmim export --format bundle                  the champion, for python -m monai.bundle run
  medmim export --format onnx --model lung-segment --out lung.onnx
  medmim export --format safetensors --model RUN    the encoder of a pretraining or fine-tuning run
  medmim export --format nnunet --model RUN      a resenc encoder, for nnUNetv2_train -pretrained_weights
  medmim export --datalist --data medmim-data    MONAI's datalist of a dataset
  medmim export --datalist nnunet --out $nnUNet_raw/Dataset001_Lung    the dataset as nnU-Net raw""",
)
@click.option(
    "form",
    "--format",
    type=click.Choice(["bundle", "onnx", "safetensors", "nnunet", "datalist"]),
    help="What to write; safetensors and nnunet contain the encoder alone, also of pretraining runs.",
)
@click.option(
    "datalist",
    "--datalist",
    is_flag=False,
    flag_value="monai",
    type=click.Choice(list(_DATALISTS)),
    help="Write the dataset instead of a model: MONAI's datalist, or a folder of nnU-Net raw data.",
)
@model_option
@dataset_option("Dataset folder, with the case for the comparison with PyTorch.")
@path_option(
    "--plans",
    help="nnU-Net plans of the target dataset (--format nnunet): also write medmimPlans.json, the same plans "
    "with the architecture of the encoder.",
)
@click.option(
    "--channels",
    help="Channels of the cases of --datalist nnunet, such as t1,flair.  [default: one volume per case]",
)
@path_option("--out", help="File or folder to write.")
@json_option
def command(
    *,
    form: str | None,
    datalist: str | None,
    model: str | None,
    data: Path,
    plans: Path | None,
    channels: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write a model for other programs, after comparing it with PyTorch on a real case."""
    form = _DATALISTS[datalist] if datalist else form
    if form is None:
        raise click.UsageError("--format: expected bundle, onnx, safetensors, nnunet or datalist")
    from medmim.stages.export.run import export

    result = export(
        form,
        data=data,
        home=home(),
        model=model,
        out=out,
        plans=plans,
        channels=channels.split(",") if channels else (),
        log=log_line,
    )
    lines = [f"written      {result.path}"]
    if result.difference is not None:
        lines.append(f"difference   {result.difference:.1e} at most from PyTorch, on a case of '{data}'")
    print_result(result.as_json(), as_json=as_json, lines=lines, following=result.next_step)
