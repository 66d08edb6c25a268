"""The table of public networks whose weights medmim's encoders can load: `FAMILIES`.

A new entry needs names that identify the network, its names in terms of those of an encoder, and a function
that reads the encoder's options from the shapes; what shapes do not contain is stated in the entry.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medmim.encoders.nnunet_weights import residual_encoder
from medmim.encoders.public_weights import Family, Named, Weights, as_option, numbers_in, unsupported

_LAYERS, _WIDTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}, (64, 128, 256, 512)
_HEAD, _HEADS = 64, {1280: 16}  # channels of an attention head; heads of ViT-H, where they differ
_MERGED = [0, 3, 2, 6, 1, 5, 4, 7]  # MONAI's first `PatchMerging` in the order of its `PatchMergingV2`


def _resnet(weights: Weights) -> tuple[str, dict[str, Any]]:
    """Stride 2 and pooling in the stem are assumed, as in all files of this family."""
    name = "resnet50" if "stages.0.0.conv3.weight" in weights else "resnet18"
    layers = tuple(numbers_in(weights, rf"stages\.{stage}\.(\d+)\.") for stage in range(4))
    widths = tuple(len(weights[f"stages.{stage}.0.conv1.weight"]) for stage in range(4))
    if name == "resnet50" and len(weights["stages.0.0.conv3.weight"]) != 4 * widths[0]:
        raise ValueError("a ResNeXt or wide ResNet")
    return name, {
        "max_pool": True,
        **({"layers": list(layers)} if layers != _LAYERS[name] else {}),
        **({"widths": list(widths)} if widths != _WIDTHS else {}),
        **({} if "stages.1.0.downsample.0.weight" in weights else {"shortcut": "A"}),
    }


def _convnext(weights: Weights) -> tuple[str, dict[str, Any]]:
    stages = range(numbers_in(weights, r"stages\.(\d+)\."))
    wide = weights["stages.0.1.widen.weight"]
    return "convnext", {
        "widths": [len(weights[f"stages.{stage}.1.depthwise.weight"]) for stage in stages],
        "blocks": [numbers_in(weights, rf"stages\.{stage}\.(\d+)\.depthwise") for stage in stages],
        "stem_stride": weights["stages.0.0.0.weight"].shape[-1],
        "kernel_size": weights["stages.0.1.depthwise.weight"].shape[-1],
        **({"expansion": len(wide) // wide.shape[1]} if len(wide) != 4 * wide.shape[1] else {}),
    }


def _vit(weights: Weights, *, norm_eps: float) -> tuple[str, dict[str, Any]]:
    """Heads of 64 channels are assumed (ViT-H: 80), and so is the epsilon of layer norms."""
    kernel = weights["patches.weight"]
    width, dims = len(kernel), kernel.dim() - 2
    places = weights.get("positions.learned")
    side = round(places.shape[1] ** (1 / dims)) if places is not None else 0
    return "vit", {
        "patch": as_option(kernel.shape[2:]),
        "width": width,
        "depth": numbers_in(weights, r"blocks\.(\d+)\."),
        "heads": _HEADS.get(width, width // _HEAD),
        **({"class_token": True} if "token" in weights else {}),
        **({"position_grid": side} if places is not None and side**dims == places.shape[1] else {}),
        **({"norm_eps": norm_eps} if norm_eps != 1e-5 else {}),
    }


def _swin(weights: Weights) -> tuple[str, dict[str, Any]]:
    kernel = weights["patches.proj.weight"]
    stages = range(numbers_in(weights, r"stages\.(\d+)\."))
    # ((2 × window - 1) ^ axes, heads) each
    tables = [weights[f"stages.{stage}.blocks.0.attn.relative_position_bias_table"] for stage in stages]
    return "swin", {
        "patch": as_option(kernel.shape[2:]),
        "width": len(kernel),
        "depths": [numbers_in(weights, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in stages],
        "heads": [table.shape[1] for table in tables],
        "window": (round(len(tables[0]) ** (1 / (kernel.dim() - 2))) + 1) // 2,
        **({} if "patches.norm.weight" in weights else {"patch_norm": False}),
    }


def _segresnet(weights: Weights) -> tuple[str, dict[str, Any]]:
    """Group norms of 8 groups are assumed, MONAI's default."""
    levels = range(numbers_in(weights, r"levels\.(\d+)\."))
    blocks = [numbers_in(weights, rf"levels\.{level}\.(\d+)\.conv1\.") for level in levels]
    return "segresnet", {"width": len(weights["stem.conv.weight"]), "blocks": blocks}


def _token_and_positions(weights: Named) -> tuple[Named, list[str]]:
    """Add the position of the class token to the token; the position embeddings then belong to patches."""
    places, token = "pos_embed", "cls_token"
    if token not in weights or places not in weights:
        return weights, []
    positions = weights[places]
    if positions.shape[1] == round(positions.shape[1] ** 0.5) ** 2:  # none for the token
        return weights, []
    return {**weights, token: weights[token] + positions[:, :1], places: positions[:, 1:]}, [
        "position of the class token added to it"
    ]


def _timm_vit(weights: Named) -> tuple[Named, list[str]]:
    """Fold layer scales into the layers before them, and join biases of query and value (BEiT, SimMIM)."""
    weights, rules = _token_and_positions(dict(weights))
    scales = (
        ("gamma_1", "attn.proj"),
        ("ls1.gamma", "attn.proj"),
        ("gamma_2", "mlp.fc2"),
        ("ls2.gamma", "mlp.fc2"),
    )
    folded = 0
    for name in list(weights):
        for scale, layer in scales:
            if not name.endswith(f".{scale}"):
                continue
            before, factor = f"{name.removesuffix(scale)}{layer}", weights.pop(name)
            weights[f"{before}.weight"] = weights[f"{before}.weight"] * factor[:, None]
            weights[f"{before}.bias"] = weights[f"{before}.bias"] * factor
            folded += 1
        if name.endswith("attn.q_bias"):
            query: Tensor = weights.pop(name)
            value = weights.pop(f"{name.removesuffix('q_bias')}v_bias")
            weights[f"{name.removesuffix('q_bias')}qkv.bias"] = torch.cat([query, 0 * query, value])
    rules += [f"layer scale folded into the layer before it ({folded})"] if folded else []
    if any("relative_position_bias_table" in name for name in weights):
        rules.append("relative position bias not loaded: this encoder has none, so its outputs differ")
    if "register_tokens" in weights or "reg_token" in weights:
        rules.append("register tokens not loaded: this encoder has none, so its outputs differ")
    return weights, rules


def _timm_swin(weights: Named) -> tuple[Named, list[str]]:
    """Count a merging of patches to the stage before it, as in the official files."""
    if "layers.0.downsample.norm.weight" in weights:
        return weights, []
    merging = re.compile(r"(?<=^layers\.)\d+(?=\.downsample)")
    renamed = {merging.sub(lambda old: str(int(old[0]) - 1), name): value for name, value in weights.items()}
    return renamed, ["mergings of timm counted to the stage before"]


def _swin_unetr(weights: Named) -> tuple[Named, list[str]]:
    """Reorder the neighbours that patch merging concatenates; add the last norm, which has no weights."""

    def reorder(name: str, value: Tensor) -> Tensor:
        if ".downsample." not in name:
            return value
        parts = value.chunk(8, dim=-1)
        return torch.cat([parts[number] for number in _MERGED], dim=-1)

    width = len(weights["layers4.0.blocks.0.norm1.weight"])
    norm = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    rules = ["merged patches reordered", "last norm without weights, as in the original"]
    return {**{name: reorder(name, value) for name, value in weights.items()}, **norm}, rules


_BATCH_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_SWIN_BLOCK = {
    r"{layer}\.blocks\.(\d+)\.mlp\.(?:linear|fc)([12])\.(\w+)": r"stages.\1.blocks.\2.mlp.linear\3.\4",
    r"{layer}\.blocks\.(\d+)\.((?:norm\d|attn)\..+)": r"stages.\1.blocks.\2.\3",
    r"{layer}\.downsample\.(.+)": r"merges.\1.\2",
}

FAMILIES: tuple[Family, ...] = (
    Family(
        "ResNet (torchvision, timm, SparK, MedicalNet, MONAI)",
        ("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer4.0.conv1.weight"),
        {
            r"conv1\.weight": "stem.0.weight",
            rf"bn1\.{_BATCH_NORM}": r"stem.1.\1",
            **{rf"layer{stage + 1}\.(.+)": rf"stages.{stage}.\1" for stage in range(4)},
        },
        _resnet,
        biases=("downsample.0",),
    ),
    Family(
        "ResNet as a sequence (RadImageNet)",
        ("0.weight", "1.running_mean", "4.0.conv1.weight", "7.0.conv1.weight"),
        {
            rf"([01])\.{_BATCH_NORM}": r"stem.\1.\2",
            **{rf"{stage + 4}\.(.+)": rf"stages.{stage}.\1" for stage in range(4)},
        },
        _resnet,
        biases=("downsample.0",),
    ),
    Family(
        "ConvNeXt (official, SparK)",
        ("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight", "stages.0.0.pwconv1.weight"),
        {
            r"downsample_layers\.(\d+)\.(\d+)\.(.+)": r"stages.\1.0.\2.\3",
            r"stages\.(\d+)\.(\d+)\.dwconv\.(.+)": r"stages.\1.\2+1.depthwise.\3",
            r"stages\.(\d+)\.(\d+)\.norm\.(.+)": r"stages.\1.\2+1.norm.\3",
            r"stages\.(\d+)\.(\d+)\.pwconv1\.(.+)": r"stages.\1.\2+1.widen.\3",
            r"stages\.(\d+)\.(\d+)\.pwconv2\.(.+)": r"stages.\1.\2+1.narrow.\3",
            r"stages\.(\d+)\.(\d+)\.gamma": r"stages.\1.\2+1.scale",
        },
        _convnext,
    ),
    Family(
        "ConvNeXt (timm)",
        ("stem.0.weight", "stages.0.blocks.0.conv_dw.weight", "stages.0.blocks.0.mlp.fc1.weight"),
        {
            r"stem\.(\d+)\.(.+)": r"stages.0.0.\1.\2",
            r"stages\.(\d+)\.downsample\.(\d+)\.(.+)": r"stages.\1.0.\2.\3",
            r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.(.+)": r"stages.\1.\2+1.depthwise.\3",
            r"stages\.(\d+)\.blocks\.(\d+)\.norm\.(.+)": r"stages.\1.\2+1.norm.\3",
            r"stages\.(\d+)\.blocks\.(\d+)\.mlp\.fc1\.(.+)": r"stages.\1.\2+1.widen.\3",
            r"stages\.(\d+)\.blocks\.(\d+)\.mlp\.fc2\.(.+)": r"stages.\1.\2+1.narrow.\3",
            r"stages\.(\d+)\.blocks\.(\d+)\.gamma": r"stages.\1.\2+1.scale",
        },
        _convnext,
    ),
    Family(
        "ViT (MAE, SimMIM, timm)",
        ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"),
        {
            r"patch_embed\.proj\.(\w+)": r"patches.\1",
            r"cls_token": "token",
            r"pos_embed": "positions.learned",
            r"blocks\.(\d+)\.(norm[12])\.(\w+)": r"blocks.\1.\2.\3",
            r"blocks\.(\d+)\.attn\.qkv\.(\w+)": r"blocks.\1.attention.qkv.\2",
            r"blocks\.(\d+)\.attn\.proj\.(\w+)": r"blocks.\1.attention.out_proj.\2",
            r"blocks\.(\d+)\.mlp\.fc([12])\.(\w+)": r"blocks.\1.mlp.linear\2.\3",
            r"(?:fc_)?norm\.(\w+)": r"norm.\1",
        },
        partial(_vit, norm_eps=1e-6),
        _timm_vit,
        biases=("attention.qkv",),
    ),
    Family(
        "ViT (MONAI)",
        (
            "patch_embedding.patch_embeddings.weight",
            "blocks.0.attn.qkv.weight",
            "blocks.0.mlp.linear1.weight",
        ),
        {
            r"patch_embedding\.patch_embeddings\.(\w+)": r"patches.\1",
            r"patch_embedding\.position_embeddings": "positions.learned",
            r"cls_token": "token",
            r"blocks\.(\d+)\.(norm[12])\.(\w+)": r"blocks.\1.\2.\3",
            r"blocks\.(\d+)\.attn\.(qkv|out_proj)\.(\w+)": r"blocks.\1.attention.\2.\3",
            r"blocks\.(\d+)\.mlp\.linear([12])\.(\w+)": r"blocks.\1.mlp.linear\2.\3",
            r"norm\.(\w+)": r"norm.\1",
        },
        partial(_vit, norm_eps=1e-5),
        biases=("attention.qkv",),
    ),
    Family(
        "Swin transformer of SwinUNETR (MONAI, SuPreM)",
        ("patch_embed.proj.weight", "layers1.0.blocks.0.attn.qkv.weight"),
        {
            r"patch_embed\.(.+)": r"patches.\1",
            **{
                pattern.replace(r"{layer}", rf"layers({stage + 1})\.0"): name.replace(r"\1", f"{stage}")
                for stage in range(4)
                for pattern, name in _SWIN_BLOCK.items()
                if stage < 3 or "downsample" not in pattern
            },
            r"(norm\..+)": r"\1",
        },
        _swin,
        _swin_unetr,
    ),
    Family(
        "Swin transformer (official, SimMIM, timm)",
        ("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight", "layers.0.blocks.0.mlp.fc1.weight"),
        {
            r"patch_embed\.(.+)": r"patches.\1",
            **{pattern.replace(r"{layer}", r"layers\.(\d+)"): name for pattern, name in _SWIN_BLOCK.items()},
            r"norm\.(\w+)": r"norm.\1",
        },
        _swin,
        _timm_swin,
    ),
    Family(
        "SegResNet (MONAI, SuPreM)",
        ("convInit.conv.weight", "down_layers.0.1.conv1.conv.weight"),
        {r"convInit\.(.+)": r"stem.\1", r"down_layers\.(.+)": r"levels.\1"},
        _segresnet,
    ),
    residual_encoder(),
    unsupported("nnU-Net's plain encoder (TotalSegmentator)", "stages.0.0.convs.0.conv.weight"),
    unsupported("nnU-Net v1", "conv_blocks_context.0.blocks.0.conv.weight"),
    unsupported("STU-Net", "conv_blocks_context.0.0.conv1.weight"),
    unsupported("MedNeXt", "enc_block_0.0.conv1.weight"),
    unsupported("the U-Net of Models Genesis and SuPreM", "down_tr64.ops.0.conv1.weight"),
    unsupported("a SegResNetDS (MONAI, VISTA3D)", "encoder.conv_init.weight"),
    unsupported("a U-Net of MONAI", "model.0.conv.unit0.conv.weight"),
    unsupported(
        "a ViT with `perceptron` patches (MONAI, UNETR)", "patch_embedding.patch_embeddings.1.weight"
    ),
    unsupported("a ViT of Hugging Face", "embeddings.patch_embeddings.projection.weight"),
    unsupported("CLIP (Hugging Face)", "embeddings.patch_embedding.weight"),
    unsupported("the image encoder of SAM (MedSAM)", "patch_embed.proj.weight", "blocks.0.mlp.lin1.weight"),
    unsupported("a DenseNet (torchvision, MONAI, RadImageNet)", "conv0.weight", "norm0.weight"),
    unsupported("Inception v3 (torchvision, RadImageNet)", "Conv2d_1a_3x3.conv.weight"),
    unsupported("an EfficientNet or MobileNet (timm)", "conv_stem.weight"),
    unsupported("an EfficientNet (MONAI)", "_conv_stem.weight"),
)
