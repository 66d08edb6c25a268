"""The two Lightning modules, pretraining under masks and fine-tuning for a task; no pictures, no files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from einops import rearrange
from torch import Tensor, nn

from medmim.config.runs import FinetuneSettings
from medmim.encoders.recalibrate_batch_norm import frozen_batch_norm_statistics
from medmim.masks import Mask, tissue_share
from medmim.methods import Method, Step
from medmim.methods.ema_teacher import EMATeacher
from medmim.randomness import torch_stream
from medmim.shapes import Hidden, Images, Scalar, Size, grid_of
from medmim.training.budget import Budget, agreed_progress
from medmim.training.layer_learning_rates import encoder_rates
from medmim.training.mask_any_net_regularizer import WEIGHT, MaskAnyNetRegularizer
from medmim.training.optimizers import OptimizerConfig

Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]


class PretrainingModule(L.LightningModule):
    """A method under a mask.

    Args:
        method: what is trained.
        mask: what is hidden.
        cell: mask cell in voxels.
        seed: of the run; the mask of step n is keyed by it and n.
        lr, weight_decay: of the optimiser.
        optimiser: which one.
        budget: tells the method how much of the training is done.
    """

    def __init__(
        self,
        method: Method,
        mask: Mask,
        *,
        cell: Size,
        seed: int,
        lr: float,
        weight_decay: float,
        budget: Budget,
        optimiser: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (a frozen value)
    ) -> None:
        super().__init__()
        self.method = method
        self.mask = mask
        self.cell = cell
        self.seed = seed
        self.lr = lr
        self.weight_decay = weight_decay
        self.budget = budget
        self.optimiser = optimiser

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Scalar:
        """Draw the masks of this step and return the method's loss."""
        images = in_views(batch["image"], self.method.views)
        hidden = self._masks(images, batch_idx)
        known = () if self.method.label_kind is None else (batch[self.method.label_kind].long(),)
        step: Step = self.method(images, hidden.to(images.device), *known)
        return step.loss

    def _masks(self, images: Images, batch_idx: int) -> Hidden:
        """Return this batch's share of the masks of the step.

        All batches and processes that make one step draw the masks of all of them, so that a step is the same
        however it is divided. A mask that looks at tissue sees its own images only: its share is its key.
        """
        grid = grid_of(tuple(images.shape[2:]), self.cell)
        (share, shares), count, views = share_of_step(self, batch_idx), len(images), self.method.views
        if self.mask.uses_tissue:
            generator = torch_stream(self.seed, "mask", self.global_step, share)
            return self.mask.sample(count, grid, generator=generator, weight=tissue_share(images, grid))
        generator = torch_stream(self.seed, "mask", self.global_step, 0)
        hidden = self.mask.sample(count * shares, grid, generator=generator)
        return rearrange(hidden, "(view part patch) ... -> part (view patch) ...", part=shares, view=views)[
            share
        ]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the method follow; before any callback, so that saved states hold both."""
        super().optimizer_step(*args, **kwargs)
        if _was_taken(self):
            step = self.global_step + 1  # this one is not counted yet
            self.method.on_step_end(agreed_progress(self.budget, step, self.trainer))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser of all of the method's weights."""
        return self.optimiser.over([(self.method, self.lr)], weight_decay=self.weight_decay)


def in_views(images: Tensor, views: int) -> Images:
    """Return (batch, views, channels, *space) as one batch: the first view of all, then the second of all."""
    return images.transpose(0, 1).flatten(0, 1) if views > 1 else images


def share_of_step(module: L.LightningModule, batch_idx: int) -> tuple[int, int]:
    """Return which part of its step a batch is in this process, and how many parts there are."""
    trainer = module._trainer  # None where a step is computed without a trainer
    if trainer is None:
        return 0, 1
    parts, processes = trainer.accumulate_grad_batches, trainer.world_size
    return batch_idx % parts * processes + trainer.global_rank, parts * processes


def _was_taken(module: nn.Module) -> bool:
    """Return whether a step was taken: one that the guard refuses is left without gradients."""
    return any(parameter.grad is not None for parameter in module.parameters())


class FinetuningModule(L.LightningModule):
    """A network with an `encoder` and a head, trained on a task.

    Args:
        network: what is trained; layers of its attribute `encoder` have learning rates of their own.
        loss: from the network and a batch.
        settings: optimiser, learning rates, what is frozen, moving average, seed.
        reuse: shows the task a second time, as a regulariser.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        *,
        settings: FinetuneSettings,
        reuse: MaskAnyNetRegularizer | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.settings = settings
        self.frozen, self.rates = encoder_rates(network.get_submodule("encoder"), settings)
        for layer in self.frozen:
            layer.requires_grad_(requires_grad=False)
        self.reuse = reuse
        keep = settings.ema
        self.average = EMATeacher(network, momentum=keep, last_momentum=keep) if keep else None

    @property
    def judged(self) -> nn.Module:
        """The network that is judged and kept: the moving average where there is one."""
        return self.average.network if self.average else self.network

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Scalar:
        """Return the loss of one batch."""
        for layer in self.frozen:  # norms that average over batches stay as they are too
            layer.eval()
        loss = self.loss(self.network, batch)
        if self.reuse:
            share = share_of_step(self, batch_idx)
            again = self.reuse(self.network, batch, step=self.global_step, share=share)
            with frozen_batch_norm_statistics(self.network):  # it is judged on plain images
                loss = loss + WEIGHT * self.loss(*again)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the average follow."""
        super().optimizer_step(*args, **kwargs)
        if self.average and _was_taken(self):
            # a young average forgets sooner: of a short training it would keep the weights it began with
            done = self.global_step + 1  # this step is not counted yet
            self.average.update(self.network, progress=0.0, max_momentum=(1 + done) / (10 + done))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimiser with a learning rate for every layer of the encoder and one for the rest."""
        encoder = self.network.get_submodule("encoder")
        head = nn.ModuleList(child for child in self.network.children() if child is not encoder)
        if self.reuse:
            head.append(self.reuse)
        parts = [*self.rates, (head, self.settings.lr)]
        kind = OptimizerConfig(self.settings.optimizer, self.settings.betas)
        optimizer = kind.over(parts, weight_decay=self.settings.weight_decay)
        late = {id(parameter) for parameter in encoder.parameters()}
        for group in optimizer.param_groups:
            group["begins"] = self.settings.freeze_until if id(group["params"][0]) in late else 0.0
        return optimizer
