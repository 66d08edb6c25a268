"""The guard against non-finite losses and gradients, and where they begin: layer, gradient, volumes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from medmim.encoders import Masked, Packed
from medmim.errors import RunError
from medmim.methods import Method
from medmim.training.callbacks import Log, completes_step
from medmim.training.resume.checkpoint_files import newest_intact, read_state


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


Policy = Literal["stop", "skip", "rollback"]
_ADVICE = "lower --lr, use --precision fp32, or continue with --set on_nonfinite=skip"


class ModuleSnapshot:
    """The buffers of a module before a step, to restore them when the step is not taken."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._buffers = [buffer.clone() for buffer in module.buffers()]

    def restore(self) -> None:
        """Restore running statistics, and discard what methods have collected for the end of the step."""
        for buffer, before in zip(self._module.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        for part in self._module.modules():
            if isinstance(part, Method):
                part.discard_pending()


class FiniteGuard(Callback):
    """Check loss and gradients before each optimizer step.

    A non-finite step leaves weights, optimizer and running statistics as they were (skip), or as they were in
    the last saved state (rollback); in both cases training continues with the next data.

    Args:
        limit: non-finite steps allowed in the whole run; the next one stops it.
    """

    def __init__(
        self, policy: Policy, *, limit: int, log: Log, folder: Path, volume_of: Callable[[int], str]
    ) -> None:
        self.policy = policy
        self.limit = limit
        self.sink = log
        self.folder = folder
        self.volume_of = volume_of
        self.count = 0
        self._parts: list[tuple[Any, int]] = []
        self._losses: list[Tensor] = []
        self._before: ModuleSnapshot | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Copy what a forward pass changes."""
        if not self._parts:
            self._before = ModuleSnapshot(pl_module)
        self._parts.append((batch, batch_idx))

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Collect one loss."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Check the step, at the cost of one norm.

        With fp16, a scaled gradient may overflow: the step is skipped and the scale lowered, without a
        report, until the scale is 1.

        Raises:
            RunError: if it is not finite, and the policy or the limit stops the run.
        """
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm, loss = torch.nn.utils.get_total_norm(gradients), torch.stack(self._losses).sum()
        good, finite = bool(torch.isfinite(norm + loss)), bool(torch.isfinite(loss))
        agreed = trainer.strategy.reduce_boolean_decision
        if agreed(good, all=True):
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and scaler.get_scale() > 1 and agreed(finite, all=True):
            optimizer.zero_grad(set_to_none=True)
            return
        self._reject(pl_module, optimizer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Discard the batches of a completed step."""
        if completes_step(trainer, batch_idx):
            self._parts.clear()
            self._losses.clear()

    def _reject(self, module: L.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        step = module.trainer.global_step + 1
        message = f"step {step}: {of_all_processes(self._finding(module))}"
        self.count += 1
        self.sink.tags({"nonfinite_steps": str(self.count), "nonfinite_policy": self.policy})
        if self.policy == "stop":
            raise RunError(f"{message}; {_ADVICE}")
        if self.count > self.limit:
            raise RunError(
                f"{message}; that is one more than nonfinite_limit={self.limit} allows: lower --lr, use "
                "--precision fp32, or inspect the volumes named"
            )
        self.sink.metrics({"train/nonfinite_steps": float(self.count)}, step=step)
        outcome = self._undo(module, optimizer)
        if module.trainer.is_global_zero:  # the message is the same in all processes
            logging.getLogger("medmim").warning("%s; %s, %d so far", message, outcome, self.count)

    def _finding(self, module: L.LightningModule) -> NonFiniteFinding:
        """Return what is not finite in this process, with the volumes and the first layer involved."""
        loss_is_bad = not all(bool(torch.isfinite(loss)) for loss in self._losses)
        gradient = first_bad_gradient(module)
        layers = [first_bad_layer(module, batch, number) for batch, number in self._parts]
        if self._before:
            self._before.restore()
        bad = [part for part, layer in zip(self._parts, layers, strict=True) if layer] or self._parts
        volumes = dict.fromkeys(self.volume_of(draw) for batch, _ in bad for draw in suspects(batch))
        first = min((layer for layer in layers if layer), default=None)
        return NonFiniteFinding(loss_is_bad, first, gradient, tuple(volumes))

    def _undo(self, module: L.LightningModule, optimizer: torch.optim.Optimizer) -> str:
        """Remove every trace of the step, and return what was done."""
        # without gradients the optimizer step does nothing, weight decay included
        optimizer.zero_grad(set_to_none=True)
        if self.policy != "rollback":
            return "skipped"
        state = self._last_saved(module.trainer)
        if state is None:
            return "skipped, since there is no saved state to roll back to yet"
        module.load_state_dict(state["state_dict"])
        optimizer.load_state_dict(state["optimizer_states"][0])
        return "rolled back to the last saved state"

    def _last_saved(self, trainer: L.Trainer) -> dict[str, Any] | None:
        """Return the last state of the first process in all of them: the others may not see its folder."""
        path = newest_intact(self.folder) if trainer.is_global_zero else None
        state = read_state(path) if path else None
        kept = state and {key: state[key] for key in ("state_dict", "optimizer_states")}
        given: dict[str, Any] | None = trainer.strategy.broadcast(kept)
        return given

    def state_dict(self) -> dict[str, Any]:
        """Return the number of non-finite steps."""
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of non-finite steps."""
        self.count = state_dict["count"]
