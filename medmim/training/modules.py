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
from medmim.shapes import Hidden, Images, Scalar, Size, grid_of
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
        images = batch["image"]
        step: Step = self.method(images, self._masks(images, batch_idx).to(images.device))
        return step.loss

    def _masks(self, images: Images, batch_idx: int) -> Hidden:
        """Return this batch's share of the masks of the step.

        All batches and processes that make one step draw the masks of all of them, so that a step is the same
        however it is divided. A mask that looks at tissue sees its own images only: its share is its key.
        """
        grid = grid_of(tuple(images.shape[2:]), self.cell)
        (share, shares), count = self._share(batch_idx), len(images)
        if self.mask.looks_at_tissue:
            generator = torch_stream(self.seed, "mask", self.global_step, share)
            return self.mask.sample(count, grid, generator=generator, weight=tissue_share(images, grid))
        generator = torch_stream(self.seed, "mask", self.global_step, 0)
        hidden = self.mask.sample(count * shares, grid, generator=generator)
        return hidden[share * count : (share + 1) * count]

    def _share(self, batch_idx: int) -> tuple[int, int]:
        """Return which part of its step a batch is in this process, and how many parts there are."""
        trainer = self._trainer  # None where a step is computed without a trainer
        if trainer is None:
            return 0, 1
        parts, processes = trainer.accumulate_grad_batches, trainer.world_size
        return batch_idx % parts * processes + trainer.global_rank, parts * processes

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the method follow; before any callback, so that saved states hold both."""
        super().optimizer_step(*args, **kwargs)
        self.method.after_step(self.budget.progress(self.global_step + 1))  # this step is not counted yet

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser of all of the method's weights."""
        return self.optimiser.over([(self.method, self.lr)], weight_decay=self.weight_decay)


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
