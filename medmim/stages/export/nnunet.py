"""A `resenc` encoder for nnU-Net v2: a checkpoint, an adaptation plan, and nnU-Net plans that fit it.

checkpoint_final.pth   for `nnUNetv2_train … -pretrained_weights`, and nnU-Net's tools for nnssl checkpoints
adaptation_plan.json   architecture, patch size, spacing, normalisation and key prefixes, as in the checkpoint
medmimPlans.json       the nnU-Net plans of a target dataset, with the architecture of the encoder

nnU-Net orders the axes of arrays z, y, x, medmim x, y, z. Kernels, strides and sizes are written in nnU-Net's
order, so that its network computes the maps of this encoder from the transposed image.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medmim import __version__
from medmim.encoders.nnunet_weights import nnunet_axes
from medmim.encoders.resenc import ConvNorm, ConvSequence, ResEncEncoder, initialise
from medmim.errors import DataError, UsageError
from medmim.heads.transfer import PREFIX, transfer
from medmim.randomness import stream_seed
from medmim.shapes import round_up
from medmim.stages.export.networks import difference
from medmim.text_formats import parse_json
from medmim.training.tasks.trained_model import TrainedEncoder

CHECKPOINT, PLANS = "checkpoint_final.pth", "medmimPlans"
_NETWORK = "ResidualEncoderUNet"
_IMPORTED = ["conv_op", "norm_op", "dropout_op", "nonlin"]
_SCHEMES = {"dataset": "CTNormalization", "none": "NoNormalization"}  # of other rules: ZScoreNormalization
_RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}


def nnunet_files(
    trained: TrainedEncoder, images: Tensor, plans: Mapping[str, Any] | None
) -> tuple[dict[str, Any], float]:
    """Return the files by name, and the largest difference of the written encoder's maps from PyTorch.

    The decoder is initialised as nnU-Net does, because no run of medmim trains nnU-Net's decoder.
    """
    encoder = trained.encoder
    if not isinstance(encoder, ResEncEncoder) or len(encoder.channels) < 2:
        raise UsageError(
            f"--format nnunet: expected a `resenc` encoder of two stages or more, got "
            f"'{trained.description['encoder']}'; use --format safetensors"
        )
    dims = trained.plan.dims
    order = plans["transpose_forward"] if plans else [0, 1, 2]
    axes = nnunet_axes(order, dims)
    channels = len(_configuration(plans, dims)["normalization_schemes"]) if plans else encoder.in_channels
    if encoder.in_channels not in (1, channels):
        raise UsageError(
            f"--plans: expected plans of images with {encoder.in_channels} channels, got {channels} channels"
        )
    network = _UNet(encoder, axes, channels)
    adaptation = _adaptation_plan(trained, network.encoder, order)
    stream = io.BytesIO()
    torch.save(
        {"network_weights": network.state_dict(), "nnssl_adaptation_plan": adaptation, "citations": []},
        stream,
    )
    contents = {CHECKPOINT: stream.getvalue(), "adaptation_plan.json": adaptation}
    if plans:
        contents[f"{PLANS}.json"] = _adapted_plans(plans, network.encoder)
    return contents, difference(encoder, _transposed(network.encoder.eval(), axes, channels), images)


def planning_command(folder: str) -> str:
    """Return the command that plans a raw dataset `DatasetNNN_NAME` with residual encoders."""
    number = int(folder.removeprefix("Dataset")[:3])
    return f"nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity -pl nnUNetPlannerResEncM"


def training_command(place: Path, plans: Path, adapted_plans: Mapping[str, Any]) -> str:
    """Return the commands that train from the files in `place` on the dataset of the plans."""
    [configuration] = adapted_plans["configurations"]
    dataset = adapted_plans.get("dataset_name", plans.parent.name)
    made, target, weights = (
        shlex.quote(str(path)) for path in (place / f"{PLANS}.json", plans.parent, place / CHECKPOINT)
    )
    train = f"nnUNetv2_train {dataset} {configuration} 0 -p {PLANS} -pretrained_weights {weights}"
    return f"cp {made} {target}/ && {train}"


def read_plans(path: Path) -> dict[str, Any]:
    """Read an nnU-Net plans file."""
    try:
        plans: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        if sorted(plans["transpose_forward"]) != [0, 1, 2] or not plans["configurations"]:
            raise ValueError("incomplete")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"--plans '{path}': expected the JSON file that nnUNetv2_plan_experiment writes to "
            f"nnUNet_preprocessed, got one that cannot be used ({type(error).__name__})",
            reason="damaged_plans",
        ) from error
    return plans


class _UNet(nn.Module):
    """nnU-Net's network without segmentation layers: same names and shapes of weights."""

    def __init__(self, encoder: ResEncEncoder, axes: Sequence[int], channels: int) -> None:
        super().__init__()
        kernels, strides, blocks = _layout(encoder, axes)
        dims, widths = len(axes), encoder.channels
        self.encoder = ResEncEncoder(
            spatial_dims=dims,
            in_channels=channels,
            features=widths,
            blocks=blocks,
            kernel_sizes=kernels,
            strides=strides,
        )
        weights = {
            f"{PREFIX}{name}": value.permute(0, 1, *(axis + 2 for axis in axes)).contiguous()
            if value.dim() > 2
            else value
            for name, value in encoder.state_dict().items()
        }
        transfer(self.encoder, weights, least=1.0)
        self.decoder = nn.Module()
        self.decoder.encoder = self.encoder  # nnU-Net's file contains the encoder under both names
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(0, "nnU-Net decoder"))
            up, one = Conv[Conv.CONVTRANS, dims], (1,) * dims
            self.decoder.transpconvs = nn.ModuleList(
                up(widths[stage], widths[stage - 1], tuple(strides[stage]), tuple(strides[stage]))
                for stage in range(len(widths) - 1, 0, -1)
            )
            self.decoder.stages = nn.ModuleList(
                ConvSequence([ConvNorm(2 * width, width, tuple(kernel), one)])
                for width, kernel in zip(widths[-2::-1], kernels[-2::-1], strict=True)
            )
            for part in (self.decoder.transpconvs, self.decoder.stages):
                part.apply(initialise)


def _layout(
    encoder: ResEncEncoder, axes: Sequence[int]
) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Return the kernel and the stride of each stage in nnU-Net's order of axes, and its number of blocks."""
    blocks: list[Any] = [stage.blocks for stage in encoder.stages]
    first = [each[0].conv1.conv for each in blocks]
    kernels = [[int(conv.kernel_size[axis]) for axis in axes] for conv in first]
    strides = [[int(conv.stride[axis]) for axis in axes] for conv in first]
    return kernels, strides, [len(each) for each in blocks]


def _transposed(encoder: nn.Module, axes: Sequence[int], channels: int) -> Any:
    """Return a function that gives the maps of an encoder in nnU-Net's order of axes for our images."""
    there = [axis + 2 for axis in axes]
    back = [there.index(axis + 2) + 2 for axis in range(len(axes))]

    def maps(images: Tensor) -> list[Tensor]:
        given = images.expand(-1, channels, *images.shape[2:]).permute(0, 1, *there)
        return [one.permute(0, 1, *back) for one in encoder(given)]

    return maps


def _architecture(written: ResEncEncoder) -> dict[str, Any]:
    """Return the arguments of nnU-Net's network class."""
    dims = len(written.strides[0])
    kernels, strides, blocks = _layout(written, range(dims))
    return {
        "n_stages": len(blocks),
        "features_per_stage": list(written.channels),
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": kernels,
        "strides": strides,
        "n_blocks_per_stage": blocks,
        "n_conv_per_stage_decoder": [1] * (len(blocks) - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def _adaptation_plan(trained: TrainedEncoder, written: ResEncEncoder, order: Sequence[int]) -> dict[str, Any]:
    """Return the plan that nnU-Net's fine-tuning of nnssl checkpoints reads (nnssl, arXiv 2412.17041)."""
    axes = nnunet_axes(order, trained.plan.dims)
    configuration = _pretraining_configuration(trained, written.in_channels, axes)
    spacing = configuration["spacing"] or [1.0] * len(axes)
    return {
        "architecture_plans": {
            "arch_class_name": _NETWORK,
            "arch_kwargs": _architecture(written),
            "arch_kwargs_requiring_import": _IMPORTED,
        },
        "pretrain_plan": {
            "dataset_name": f"medmim_{str(trained.description.get('dataset_hash', ''))[:8]}",
            "plans_name": PLANS,
            "original_median_spacing_after_transp": spacing,
            "image_reader_writer": "NibabelIOWithReorient",
            "transpose_forward": list(order),
            "transpose_backward": [list(order).index(axis) for axis in range(3)],
            "configurations": {"medmim": configuration},
            "experiment_planner_used": f"medmim {__version__}",
        },
        "pretrain_num_input_channels": written.in_channels,
        "recommended_downstream_patchsize": configuration["patch_size"],
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }


def _pretraining_configuration(trained: TrainedEncoder, channels: int, axes: Sequence[int]) -> dict[str, Any]:
    """Return patch size, spacing and normalisation of the training, in nnU-Net's words and order of axes."""
    plan, description = trained.plan, trained.description
    spacing = None if plan.spacing_mm is None else [plan.spacing_mm[axis] for axis in axes]
    modalities = [*description.get("modalities", ()), *plan.normalisation.rules, "MR"]
    scheme = _SCHEMES.get(plan.normalisation.rule_for(modalities[0]).method, "ZScoreNormalization")
    return {
        "data_identifier": PLANS,
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": "noresample" if spacing is None else "median",
        "normalization_schemes": [scheme] * channels,
        "use_mask_for_norm": [False] * channels,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": _RESAMPLING,
        "resampling_fn_mask": "resample_data_or_seg_to_shape",
        "resampling_fn_mask_kwargs": {**_RESAMPLING, "is_seg": True, "order": 1},
        "spacing": spacing,
        "patch_size": [plan.size[axis] for axis in axes],
    }


def _configuration(plans: Mapping[str, Any], dims: int) -> dict[str, Any]:
    """Return the configuration of nnU-Net plans for 2D or 3D patches."""
    name = {2: "2d", 3: "3d_fullres"}[dims]
    if name not in plans["configurations"]:
        known = ", ".join(plans["configurations"])
        raise UsageError(f"--plans: expected a configuration '{name}' for a {dims}D encoder, got {known}")
    configuration: dict[str, Any] = plans["configurations"][name]
    return configuration


def _adapted_plans(plans: Mapping[str, Any], written: ResEncEncoder) -> dict[str, Any]:
    """Return nnU-Net plans with another architecture; data preprocessed for the plans stay valid."""
    old = _configuration(plans, len(written.total_stride))
    patch = round_up(tuple(old["patch_size"]), written.total_stride)
    if patch == written.total_stride:  # instance norm needs two values on the coarsest map
        patch = tuple(2 * side for side in patch)
    new = {
        **old,
        "patch_size": list(patch),
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{_NETWORK}",
            "arch_kwargs": _architecture(written),
            "_kw_requires_import": _IMPORTED,
        },
    }
    name = next(key for key, value in plans["configurations"].items() if value is old)
    return {**plans, "plans_name": PLANS, "configurations": {name: new}}
