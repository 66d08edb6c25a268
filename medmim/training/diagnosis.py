"""Where numbers stopped being finite: the first layer that gave them, and the draws in the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from medmim.encoders import Masked, Packed


def first_bad_layer(module: L.LightningModule, batch: Mapping[str, Any], batch_idx: int) -> str | None:
    """Compute a step again and return the first layer whose output is not finite; None: all are.

    Args:
        module: in training mode, with the weights and gradients of the bad step; its buffers may change.
        batch: what it was given.
        batch_idx: the batch's number.
    """
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(layer: nn.Module, inputs: object, output: object) -> None:
            if not found and not all(bool(torch.isfinite(one).all()) for one in _floats(output)):
                found.append(name.replace("._checkpoint_wrapped_module", ""))

        return hook

    leaves = [(name, layer) for name, layer in module.named_modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(look(name)) for name, layer in leaves]
    try:
        with torch.no_grad(), module.trainer.precision_plugin.train_step_context():
            module.training_step(batch, batch_idx)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def first_bad_gradient(module: nn.Module) -> str | None:
    """Return the parameter nearest to the loss whose gradient is not finite."""
    for name, parameter in reversed(list(module.named_parameters())):
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return name
    return None


def suspects(batch: Mapping[str, Any]) -> list[int]:
    """Return the draws of a batch whose images are not finite, or all of them if they are."""
    numbers: list[int] = batch["draw"].tolist()
    finite = torch.isfinite(batch["image"]).flatten(1).all(dim=1).tolist()
    bad = [number for number, good in zip(numbers, finite, strict=True) if not good]
    return bad or numbers


def _floats(output: object) -> Iterator[Tensor]:
    """Yield the tensors of floating-point numbers in what a layer gave."""
    if isinstance(output, Packed):
        output = output.values
    if isinstance(output, Masked):
        output = output.dense
    if isinstance(output, Tensor) and output.is_floating_point():
        yield output
    elif isinstance(output, list | tuple):
        for one in output:
            yield from _floats(one)
