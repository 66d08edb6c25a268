"""Which optimiser moves the weights, and which weights are decayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from medmim.training.lamb import Lamb

Kind = Literal["adamw", "lamb", "sgd"]


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimiser that has not met its weights yet.

    Attributes:
        kind: adamw, lamb (You et al., arXiv 1904.00962) or sgd with Nesterov's momentum.
        betas: memory of the gradient's mean and mean square; sgd takes the first as its momentum.
    """

    kind: Kind = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)

    def over(self, parts: Sequence[tuple[nn.Module, float]], *, weight_decay: float) -> Optimizer:
        """Return the optimiser of modules; norms, biases and tokens (one axis longer than one) do not decay.

        Args:
            parts: modules with their learning rates.
            weight_decay: of all other weights.
        """
        groups = []
        for module, lr in parts:
            trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
            flat = [p for p in trained if sum(length > 1 for length in p.shape) <= 1]
            rest = [p for p in trained if sum(length > 1 for length in p.shape) > 1]
            rates = {"lr": lr, "initial_lr": lr}
            # only the first follow a schedule of the decay
            decayed = {"weight_decay": weight_decay, "initial_weight_decay": weight_decay}
            groups += [{"params": rest, **rates, **decayed}, {"params": flat, **rates, "weight_decay": 0.0}]
        filled = [group for group in groups if group["params"]]
        if self.kind == "sgd":
            return torch.optim.SGD(filled, lr=1.0, momentum=self.betas[0], nesterov=self.betas[0] > 0)
        return (Lamb if self.kind == "lamb" else torch.optim.AdamW)(filled, betas=self.betas)
