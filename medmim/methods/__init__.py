"""Pretraining methods, listed in the table `METHODS`.

To add a method, write `methods/<name>.py` with a final subclass of `Method` and a builder, add one line to
`METHODS`, and one YAML to `configs/pretrain`. The contract tests run over the table.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from medmim.arguments import checked, fitting_options
from medmim.encoders import Encoder
from medmim.errors import ShapeError, unknown_name
from medmim.methods.anatomask import build_anatomask
from medmim.methods.base import Method, Step
from medmim.methods.contrastive import Contrastive, build_contrastive
from medmim.methods.dense_mae import build_dense_mae
from medmim.methods.latent_mim import LatentMIM, build_latent_mim
from medmim.methods.mae import MAE, build_mae
from medmim.methods.mask_any_net import MaskAnyNet, Supervision, build_mask_any_net
from medmim.methods.mim_contrast import build_mim_contrast
from medmim.methods.models_genesis import build_models_genesis
from medmim.methods.simmim import SimMIM, build_simmim
from medmim.methods.spark import SparK, build_spark
from medmim.methods.voco import build_voco
from medmim.methods.volume_fusion import build_volume_fusion
from medmim.shapes import Size, as_size

METHODS: dict[str, Callable[..., Method]] = {
    "latent_mim": build_latent_mim,
    "mae": build_mae,
    "simmim": build_simmim,
    "spark": build_spark,
    "mask_any_net": build_mask_any_net,
    "contrastive": build_contrastive,
    "anatomask": build_anatomask,
    "dense_mae": build_dense_mae,
    "mim_contrast": build_mim_contrast,
    "models_genesis": build_models_genesis,
    "volume_fusion": build_volume_fusion,
    "voco": build_voco,
}

# methods that need a patch-based encoder
ON_PATCHES = frozenset({"latent_mim", "mae", "simmim"})

# methods that hide nothing: the mask only seeds their random draws
WITHOUT_MASK = frozenset({"volume_fusion", "voco"})


@checked
def build_method(
    name: str,
    *,
    encoder: Encoder,
    spatial_dims: int,
    cell: int | Size,
    supervision: Supervision | None = None,
    **options: Any,
) -> Method:
    """Build a method of the table around an encoder.

    Args:
        name: a key of `METHODS`.
        cell: size of a mask cell in voxels, one number or one per axis.
        supervision: kind and number of the dataset's labels, for methods that use them.

    Raises:
        UsageError: for an unknown name or option, or one of a wrong type.
        ShapeError: for a cell that does not match the encoder's strides.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    if len(encoder.total_stride) != spatial_dims:
        own = len(encoder.total_stride)
        raise ShapeError(f"build_method: spatial_dims: expected {own}, as of the encoder, got {spatial_dims}")
    size = as_size(cell, spatial_dims, what="build_method: cell")
    given = {"encoder": encoder, "spatial_dims": spatial_dims, "cell": size, "supervision": supervision}
    taken = signature(METHODS[name]).parameters.keys()
    fitted = fitting_options(f"method '{name}'", METHODS[name], options, known=taken - given.keys())
    return METHODS[name](**{key: value for key, value in given.items() if key in taken}, **fitted)


__all__ = [
    "MAE",
    "METHODS",
    "ON_PATCHES",
    "Contrastive",
    "LatentMIM",
    "MaskAnyNet",
    "Method",
    "SimMIM",
    "SparK",
    "Step",
    "build_method",
]
