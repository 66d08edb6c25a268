"""The two Lightning modules, pretraining under masks and fine-tuning for a task; no pictures, no files."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from monai.losses.dice import DiceCELoss
from torch import Tensor, nn

from medmim.masks import Mask, tissue_share
from medmim.methods import Method, Step
from medmim.randomness import torch_stream
from medmim.shapes import Images, Scalar, Size, grid_of
from medmim.training.budget import Budget
from medmim.training.optimisers import Optimiser


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
        optimiser: Optimiser = Optimiser(),  # noqa: B008 (a frozen value)
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
        generator = torch_stream(self.seed, "mask", self.global_step, self.global_rank)
        grid = grid_of(tuple(images.shape[2:]), self.cell)
        weight = tissue_share(images, grid) if self.mask.looks_at_tissue else None
        hidden = self.mask.sample(len(images), grid, generator=generator, weight=weight)
        known = () if self.method.learns_from is None else (batch[self.method.learns_from].long(),)
        step: Step = self.method(images, hidden.to(images.device), *known)
        return step.loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the method follow; before any callback, so that saved states hold both."""
        super().optimizer_step(*args, **kwargs)
        self.method.after_step(self.budget.progress(self.global_step + 1))  # this step is not counted yet

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser of all of the method's weights."""
        return self.optimiser.over([(self.method, self.lr)], weight_decay=self.weight_decay)


def in_views(images: Tensor, views: int) -> Images:
    """Return (batch, views, channels, *space) as one batch: the first view of all, then the second of all."""
    return images.transpose(0, 1).flatten(0, 1) if views > 1 else images


class FinetuningModule(L.LightningModule):
    """A network with an `encoder` and a head, trained on labels with Dice and cross entropy.

    Args:
        network: what is trained; its attribute `encoder` gets its own learning rate.
        lr: of the head.
        encoder_lr: of the encoder, relative to `lr`; 0 freezes it.
        weight_decay: of the optimiser.
        optimiser: which one.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        lr: float,
        encoder_lr: float,
        weight_decay: float,
        optimiser: Optimiser = Optimiser(),  # noqa: B008 (a frozen value)
    ) -> None:
        super().__init__()
        self.network = network
        self.lr = lr
        self.encoder_lr = encoder_lr
        self.weight_decay = weight_decay
        self.optimiser = optimiser
        # Batch Dice: one patch without a class does not dominate the gradient.
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Scalar:
        """Return the loss of one batch."""
        scores = self.network(batch["image"]).float()
        loss: Tensor = self.loss(scores, batch["label"].long())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimiser with one learning rate for the encoder and one for the rest."""
        encoder: Any = self.network.encoder
        head = nn.ModuleList(child for child in self.network.children() if child is not encoder)
        if self.encoder_lr == 0:
            encoder.requires_grad_(requires_grad=False)
        parts = [(encoder, self.lr * self.encoder_lr), (head, self.lr)]
        return self.optimiser.over(parts, weight_decay=self.weight_decay)
