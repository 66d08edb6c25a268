"""Task heads for encoders, registered in the table `HEADS`, and transfer of encoder weights."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from torch import nn

from medmim.encoders import Encoder
from medmim.errors import refuse_unknown_options, unknown_name
from medmim.heads.classification import Classifier, Regressor
from medmim.heads.detection import Detector
from medmim.heads.segmentation import Segmenter
from medmim.heads.transfer import Transfer, transfer, transfer_decoder

HEADS: dict[str, Callable[..., nn.Module]] = {
    "classify": Classifier,
    "detect": Detector,
    "multilabel": Classifier,
    "ordinal": Classifier,
    "regress": Regressor,
    "segment": Segmenter,
}


def build_head(task: str, *, encoder: Encoder, spatial_dims: int, classes: int, **options: Any) -> nn.Module:
    """Build the network of a task around an encoder.

    Args:
        task: a key of `HEADS`.
        encoder: the (pretrained) encoder, stored as the attribute `encoder` of the network.
        classes: number of classes; for segmentation including background.
    """
    if task not in HEADS:
        raise unknown_name("task", task, HEADS)
    known = set(signature(HEADS[task]).parameters) - {"encoder", "spatial_dims", "classes"}
    refuse_unknown_options(f"head '{task}'", options, known)
    return HEADS[task](encoder=encoder, spatial_dims=spatial_dims, classes=classes, **options)


__all__ = [
    "HEADS",
    "Classifier",
    "Detector",
    "Regressor",
    "Segmenter",
    "Transfer",
    "build_head",
    "transfer",
    "transfer_decoder",
]
