"""The two Lightning modules: pretraining under masks, and fine-tuning for a task; no figures, no files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor, nn

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.encoders.batch_norm import frozen_batch_norm_statistics
from medmim.encoders.patch_tokens import TokenEncoder
from medmim.masks import Mask, tissue_share
from medmim.methods import Method, Step
from medmim.methods.ema_teacher import EMATeacher
from medmim.randomness import torch_stream
from medmim.shapes import Hidden, Images, Scalar, Size, grid_of
from medmim.training.budget import Budget, agreed_progress
from medmim.training.mask_any_net_regularizer import WEIGHT, MaskAnyNetRegularizer
from medmim.training.optimizers import build_optimizer, encoder_rates

Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]


class PretrainingModule(L.LightningModule):
    """A pretraining method under a mask.

    Args:
        settings: optimizer, learning rate and seed; seed and step number determine the masks of a step.
    """

    def __init__(
        self, method: Method, mask: Mask, *, cell: Size, settings: PretrainSettings, budget: Budget
    ) -> None:
        super().__init__()
        self.method = method
        self.mask = mask
        self.cell = cell
        self.settings = settings
        self.decay_by_role = True
        self.budget = budget
        self._kept: Tensor | None = None  # channels that the encoder sees in this step; None: all
        if settings.hide_channels:
            tokens = isinstance(method.encoder, TokenEncoder)
            entrance = method.encoder.get_submodule("patches" if tokens else "")
            entrance.register_forward_pre_hook(self._without_hidden_channels)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Scalar:
        """Sample the masks of this step and return the loss of the method."""
        images, *labels = self.inputs(batch)
        hidden = self._masks(images, batch_idx)
        self._kept = self._visible_channels(images)
        step: Step = self.method(images, hidden.to(images.device), *labels)
        self._kept = None  # evaluations show all channels
        return step.loss

    def inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the images of a batch, all views in one batch, and the labels if the method uses them."""
        kind = self.method.label_kind
        labels = () if kind is None else (batch[kind].long(),)
        return in_views(batch["image"], self.method.views), *labels

    def draw(self, images: Images, generator: torch.Generator) -> Hidden:
        """Draw a mask for each image, whose tissue it may depend on."""
        grid = grid_of(tuple(images.shape[2:]), self.cell)
        return self.mask.sample(len(images), grid, generator=generator, weight=tissue_share(images, grid))

    def _visible_channels(self, images: Images) -> Tensor | None:
        """Draw the channels that the encoder sees in this step, at least one; shape (channels, 1, …)."""
        if not self.settings.hide_channels:
            return None
        generator = torch_stream(self.settings.seed, "channels", self.global_step)
        kept = _kept_channels(images.shape[1], self.settings.hide_channels, generator)
        return kept.to(images).reshape(-1, *[1] * (images.dim() - 2))

    def _without_hidden_channels(
        self, _encoder: nn.Module, inputs: tuple[Any, ...]
    ) -> tuple[Any, ...] | None:
        return None if self._kept is None else (inputs[0] * self._kept, *inputs[1:])

    def _masks(self, images: Images, batch_idx: int) -> Hidden:
        """Return the masks of one batch of a step.

        All batches and processes of a step sample the masks of the whole step, so that a step is the same
        however it is divided. A mask that depends on tissue sees only its own images: it is seeded with its
        part of the step.
        """
        (share, shares), count, views = share_of_step(self, batch_idx), len(images), self.method.views
        if self.mask.uses_tissue:
            return self.draw(images, torch_stream(self.settings.seed, "mask", self.global_step, share))
        grid = grid_of(tuple(images.shape[2:]), self.cell)
        generator = torch_stream(self.settings.seed, "mask", self.global_step, 0)
        hidden = self.mask.sample(count * shares, grid, generator=generator)
        return rearrange(hidden, "(view part patch) ... -> part (view patch) ...", part=shares, view=views)[
            share
        ]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then update the method; before any callback, so that saved states contain both."""
        super().optimizer_step(*args, **kwargs)
        if _was_taken(self):
            step = self.global_step + 1  # the current step is not counted yet
            self.method.on_step_end(agreed_progress(self.budget, step, self.trainer))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer of all weights of the method."""
        return build_optimizer(
            [(self.method, self.settings.lr)],
            weight_decay=self.settings.weight_decay,
            kind=self.settings.optimizer,
            betas=self.settings.betas,
            decay_by_role=self.decay_by_role,
            undecayed=self.method.undecayed,
        )


def _kept_channels(count: int, dropped: float, generator: torch.Generator) -> Bool[Tensor, " channels"]:
    """Return which channels are kept, each with probability 1 - dropped, and at least one."""
    chance = torch.rand(count, generator=generator)
    return (chance >= dropped) | (chance == chance.max())


def in_views(images: Tensor, views: int) -> Images:
    """Return (batch, views, channels, *space) as one batch: the first view of each image, then the second."""
    return images.transpose(0, 1).flatten(0, 1) if views > 1 else images


def share_of_step(module: L.LightningModule, batch_idx: int) -> tuple[int, int]:
    """Return the index of this process's batch among the batches of its step, and their number."""
    trainer = module._trainer  # None when a step is computed without a trainer
    if trainer is None:
        return 0, 1
    parts, processes = trainer.accumulate_grad_batches, trainer.world_size
    return batch_idx % parts * processes + trainer.global_rank, parts * processes


def _was_taken(module: nn.Module) -> bool:
    """Return whether the step was taken: the guard removes the gradients of a step that it rejects."""
    return any(parameter.grad is not None for parameter in module.parameters())


class FinetuningModule(L.LightningModule):
    """A network with an `encoder` and a head, trained on a task.

    Args:
        network: network with an attribute `encoder`, whose layers have their own learning rates.
        settings: optimizer, learning rates, frozen layers, moving average and seed.
        regularizer: computes the task a second time, on masked images.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        *,
        settings: FinetuneSettings,
        regularizer: MaskAnyNetRegularizer | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.settings = settings
        self.decay_by_role = True
        self.frozen, self.rates = encoder_rates(network.get_submodule("encoder"), settings)
        for layer in self.frozen:
            layer.requires_grad_(requires_grad=False)
        self.reuse = regularizer  # the name of its weights in saved states
        momentum = settings.ema
        self.average = EMATeacher(network, momentum=momentum, last_momentum=momentum) if momentum else None

    @property
    def evaluated_network(self) -> nn.Module:
        """The network that is evaluated and saved: the moving average where there is one."""
        return self.average.network if self.average else self.network

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Scalar:
        """Return the loss of one batch."""
        for layer in self.frozen:  # batch norms keep their statistics too
            layer.eval()
        if self.settings.channel_dropout:
            batch = {**batch, "image": self._with_dropped_channels(batch)}
        loss = self.loss(self.network, batch)
        if self.reuse:
            share = share_of_step(self, batch_idx)
            again = self.reuse(self.network, batch, step=self.global_step, share=share)
            with frozen_batch_norm_statistics(self.network):  # evaluation is on plain images
                loss = loss + WEIGHT * self.loss(*again)
        return loss

    def _with_dropped_channels(self, batch: dict[str, Tensor]) -> Images:
        """Return the images with some channels replaced by 0, drawn for each sample by its number."""
        images, dropped = batch["image"], self.settings.channel_dropout
        streams = [torch_stream(self.settings.seed, "channels", int(number)) for number in batch["draw"]]
        kept = torch.stack([_kept_channels(images.shape[1], dropped, one) for one in streams]).to(images)
        return images * kept.reshape(*kept.shape, *[1] * (images.dim() - 2))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then update the moving average."""
        super().optimizer_step(*args, **kwargs)
        if self.average and _was_taken(self):
            # an early average has less momentum: a short training would otherwise keep its initial weights
            done = self.global_step + 1  # the current step is not counted yet
            self.average.update(self.network, progress=0.0, max_momentum=(1 + done) / (10 + done))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer with one learning rate per layer of the encoder and one for the rest."""
        encoder = self.network.get_submodule("encoder")
        head = nn.ModuleList(child for child in self.network.children() if child is not encoder)
        if self.reuse:
            head.append(self.reuse)
        optimizer = build_optimizer(
            [*self.rates, (head, self.settings.lr)],
            weight_decay=self.settings.weight_decay,
            kind=self.settings.optimizer,
            betas=self.settings.betas,
            decay_by_role=self.decay_by_role,
        )
        delayed = {id(parameter) for parameter in encoder.parameters()}
        for group in optimizer.param_groups:
            group["begins"] = self.settings.freeze_until if id(group["params"][0]) in delayed else 0.0
        return optimizer
