"""What it is for: task heads on an encoder, looked up in the table `HEADS`, and the transfer of weights."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from medmim.encoders import Encoder
from medmim.errors import unknown_name
from medmim.heads.segmentation import Segmenter
from medmim.heads.transfer import Transfer, transfer

HEADS: dict[str, Callable[..., nn.Module]] = {
    "segment": Segmenter,
}


def build_head(task: str, *, encoder: Encoder, spatial_dims: int, classes: int) -> nn.Module:
    """Build the network of a task around an encoder.

    Args:
        task: a key of `HEADS`.
        encoder: the (pretrained) encoder; it becomes the network's `encoder`.
        spatial_dims: 2 or 3.
        classes: classes, background included.

    Raises:
        UsageError: for an unknown task.
    """
    if task not in HEADS:
        raise unknown_name("task", task, HEADS)
    return HEADS[task](encoder=encoder, spatial_dims=spatial_dims, classes=classes)


__all__ = ["HEADS", "Segmenter", "Transfer", "build_head", "transfer"]
