"""Options that save memory or time and keep the results: recomputation, channels last, torch.compile."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
)

from medmim.config.runs import RunSettings
from medmim.encoders.batch_norm import frozen_batch_norm_statistics
from medmim.training.nonfinite import ModuleSnapshot

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.Linear)


def apply_memory_options(module: L.LightningModule, settings: RunSettings) -> None:
    """Apply `channels_last` and `activation_checkpointing`; names and values of the weights do not change."""
    if settings.channels_last:
        for weight in module.parameters():
            if weight.dim() in _CHANNELS_LAST:
                weight.data = weight.data.contiguous(memory_format=_CHANNELS_LAST[weight.dim()])
    if settings.activation_checkpointing:
        blocks = {id(block) for block in blocks_of(module)}
        apply_activation_checkpointing(
            module, checkpoint_wrapper_fn=_recomputed, check_fn=lambda layer: id(layer) in blocks
        )


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Return the smallest submodules with at least two convolutions: residual and decoder blocks."""
    children = [block for child in module.children() for block in blocks_of(child)]
    if children:
        return children
    layers = sum(isinstance(layer, _CONVOLUTIONS) for layer in module.modules())
    container = isinstance(module, nn.ModuleList | nn.ModuleDict)  # these have no forward
    return [module] if layers >= 2 and not container else []


def _recomputed(block: nn.Module) -> nn.Module:
    """Wrap a block so that the backward pass computes it again, without updating running statistics."""
    wrapped: nn.Module = checkpoint_wrapper(
        block, context_fn=lambda: (nullcontext(), frozen_batch_norm_statistics(block))
    )
    return wrapped


class Compile(Callback):
    """Compile the networks with `torch.compile` at the first batch; continue without if that fails."""

    def __init__(self) -> None:
        self.tried = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Mapping[str, Any], batch_idx: int
    ) -> None:
        """Compile and try the first batch; buffers, gradients and generators are restored."""
        if self.tried:
            return
        self.tried = True
        # methods and networks have several entry points; only their parts are compiled
        parts = (part for child in pl_module.children() for part in child.children())
        networks = [part for part in parts if any(True for _ in part.parameters())]
        before = ModuleSnapshot(pl_module)
        for network in networks:
            network.compile()
            _fall_back(network)
        gpus = [pl_module.device] if pl_module.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(gpus):  # the step itself then uses the same random numbers
                with trainer.precision_plugin.train_step_context():
                    loss: Any = pl_module.training_step(batch, batch_idx)
                loss.backward()
        except Exception as error:  # a compiler may fail in any way, and is never required
            for network in networks:
                network._compiled_call_impl = None  # there is no public function for this
            _warn(error)
        pl_module.zero_grad(set_to_none=True)
        before.restore()


def _fall_back(network: nn.Module) -> None:
    """Call the uncompiled network once compilation fails, such as later for another size."""
    compiled: Any = network._compiled_call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except TorchDynamoException as error:
            network._compiled_call_impl = None
            _warn(error)
        return network(*args, **kwargs)

    network._compiled_call_impl = call


def _warn(error: Exception) -> None:
    logging.getLogger("medmim").warning(
        "torch.compile does not work for this network here (%s): continuing without it", type(error).__name__
    )
