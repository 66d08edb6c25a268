"""`medmim weights`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medmim.cli.options import json_option, path_option, print_result
from medmim.errors import counted

if TYPE_CHECKING:
    from medmim.stages.weights import WeightsReport


@click.command(
    "weights",
    epilog="""\b
Examples:
  medmim weights resnet50_1kpretrained_timm_style.pth
  medmim weights openmind_resenc_l.pth --json
  medmim weights mae_vit_base.pth --dims 3       what an inflated 3D encoder would load
  medmim weights strange.pt --init-map rules.yaml
Then: medmim pretrain --init FILE, or medmim finetune segment --init FILE.

\b
For a file that is not recognised, rules.yaml names the encoder and its tensors, for example:
  encoder: resnet50
  encoder_options: {max_pool: true}
  keys:
    'body\\.conv1\\.(.+)': 'stem.0.\\1'""",
)
@click.argument("file", type=click.Path(path_type=Path))
@path_option("--init-map", help="YAML file with the encoder and the names of its tensors.")
@click.option(
    "--dims", type=click.IntRange(2, 3), help="Spatial axes of the encoder.  [default: those of the file]"
)
@click.option(
    "--in-channels",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Image channels of the encoder.",
)
@json_option
def command(*, file: Path, init_map: Path | None, dims: int | None, in_channels: int, as_json: bool) -> None:
    """Show what a weights file of any origin contains, which encoder it fits, and what would be loaded.

    Files are read without executing code. Recognised: ResNets (SparK, torchvision, timm, RadImageNet,
    MedicalNet, MONAI), ConvNeXt (SparK, official, timm), ViT (MAE, SimMIM, timm, MONAI), Swin (official,
    SimMIM, timm, SwinUNETR, SuPreM), ResEnc (nnU-Net, nnssl, OpenMind), SegResNet (MONAI, SuPreM), and files
    of medmim.
    """
    from medmim.config.value_types import read_init_map
    from medmim.stages.weights import inspect_weights

    rules = read_init_map(init_map) if init_map else None
    report = inspect_weights(file, rules=rules, dims=dims, in_channels=in_channels)
    following = f"medmim finetune segment --init {shlex.quote(str(file))}"
    print_result(report.as_json(), as_json=as_json, lines=_lines(report), following=following)


def _lines(report: WeightsReport) -> list[str]:
    options = "".join(f", {key}={value}" for key, value in report.encoder_options.items())
    where = f", below '{report.prefix}'" if report.prefix else ""
    return [
        f"file     {report.file}",
        f"network  {report.family}{where}",
        f"encoder  --encoder {report.encoder} --dims {report.spatial_dims}{options}",
        f"content  {counted(report.tensors, 'tensor')}, {report.parameters / 1e6:.2f} M parameters",
        f"loads    {report.loaded_fraction:.1%} of the encoder's tensors for "
        f"{counted(report.in_channels, 'channel')}",
        f"patients seen before: {report.contamination}",
        *report.mapping,
        *(f"  {line}" for line in report.not_loaded),
    ]
