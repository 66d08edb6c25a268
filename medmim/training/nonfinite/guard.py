"""The guard against non-finite losses and gradients: stop, skip the step or roll back, within a limit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from medmim.errors import RunError
from medmim.methods import Method
from medmim.training.callbacks import completes_step
from medmim.training.logger import Log
from medmim.training.nonfinite.diagnosis import (
    NonFiniteFinding,
    first_bad_gradient,
    first_bad_layer,
    of_all_processes,
    suspects,
)
from medmim.training.resume.state_file import read_state
from medmim.training.resume.states import newest_intact

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
        policy: what to do about a non-finite step.
        limit: non-finite steps allowed in the whole run; the next one stops it.
        log: receives their number as a tag and a metric.
        folder: folder of the saved states.
        volume_of: from the number of a sample to the id of its volume.
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
