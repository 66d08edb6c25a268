"""Where non-finite numbers come from: the first layer that outputs them, and the samples in the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn

from medmim.encoders import Masked, Packed


@dataclass(frozen=True, order=True)
class NonFiniteLayer:
    """A layer with a non-finite output, ordered by execution.

    Attributes:
        place: number of layers computed before it.
        name: its name in the module.
    """

    place: int
    name: str


@dataclass(frozen=True)
class NonFiniteFinding:
    """The non-finite values of a step.

    Attributes:
        loss: whether the loss is non-finite; otherwise a gradient is.
        layer: the first layer with a non-finite output, if any.
        gradient: the parameter nearest to the loss with a non-finite gradient, if any.
        volumes: ids of the volumes in question.
    """

    loss: bool
    layer: NonFiniteLayer | None
    gradient: str | None
    volumes: tuple[str, ...]

    def __str__(self) -> str:
        """Return the finding as part of a sentence."""
        what = "loss" if self.loss else "gradient"
        nearest = f"first in the gradient of '{self.gradient}'" if self.gradient else "in the norm of all"
        where = "in the loss itself" if self.loss else nearest
        if self.layer:
            where = f"first in layer '{self.layer.name}'"
        return f"the {what} is not finite, {where}, with volumes {', '.join(self.volumes)} in the batch"


def of_all_processes(own: NonFiniteFinding) -> NonFiniteFinding:
    """Return the joint finding of the processes that share a step; call it in each of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return own
    found: list[NonFiniteFinding] = [own] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return joined(found)


def joined(found: Sequence[NonFiniteFinding]) -> NonFiniteFinding:
    """Return the finding of the process where it began, with the volumes of all such processes.

    Sums over processes spread a NaN: to all gradients, and to layers behind a norm over all voxels. It
    therefore began where the earliest layer had it, else where the loss had it; a gradient alone is no
    evidence.
    """
    first = min((one.layer for one in found if one.layer), default=None)
    began = [one for one in found if (one.layer == first if first else one.loss)] or found
    volumes = dict.fromkeys(volume for one in began for volume in one.volumes)
    return replace(began[0], volumes=tuple(volumes))


def first_bad_layer(
    module: L.LightningModule, batch: Mapping[str, Any], batch_idx: int
) -> NonFiniteLayer | None:
    """Repeat the forward pass of a step and return the first layer with a non-finite output, if any.

    The module is in training mode, with the weights and gradients of the bad step; its buffers may change.
    """
    found: list[NonFiniteLayer] = []
    computed: list[str] = []

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, inputs: object, output: object) -> None:
            if not found and not all(bool(torch.isfinite(one).all()) for one in _floats(output)):
                found.append(NonFiniteLayer(len(computed), name.replace("._checkpoint_wrapped_module", "")))
            computed.append(name)

        return hook

    leaves = [(name, layer) for name, layer in module.named_modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(watch(name)) for name, layer in leaves]
    try:
        with torch.no_grad(), module.trainer.precision_plugin.train_step_context():
            module.training_step(batch, batch_idx)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def first_bad_gradient(module: nn.Module) -> str | None:
    """Return the name of the parameter nearest to the loss whose gradient is not finite."""
    for name, parameter in reversed(list(module.named_parameters())):
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return name
    return None


def suspects(batch: Mapping[str, Any]) -> list[int]:
    """Return the samples of a batch whose images are not finite, or all samples if all images are finite."""
    numbers: list[int] = batch["draw"].tolist()
    finite = torch.isfinite(batch["image"]).flatten(1).all(dim=1).tolist()
    bad = [number for number, good in zip(numbers, finite, strict=True) if not good]
    return bad or numbers


def _floats(output: object) -> Iterator[Tensor]:
    """Yield the floating-point tensors in the output of a layer."""
    if isinstance(output, Packed):
        output = output.values
    if isinstance(output, Masked):
        output = output.dense
    if isinstance(output, Tensor) and output.is_floating_point():
        yield output
    elif isinstance(output, list | tuple):
        for one in output:
            yield from _floats(one)
