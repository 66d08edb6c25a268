"""LAMB: Adam with layer-wise trust ratios (You et al., ICLR 2020, arXiv 1904.00962).

Algorithm 2 of the paper, with the bias corrections of Adam and φ(z) = z. As in the authors' code, weights
without weight decay (norms, biases) use the plain step of Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lamb(Optimizer):
    """Adam's update with weight decay, scaled to the norm of the weights of each tensor."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every tensor that has a gradient; return the value of `closure`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    self._move(weights, weights.grad, group)
        return loss

    def _move(self, weights: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[weights], group["betas"]
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(weights), torch.zeros_like(weights)
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        corrected = (state["square"] / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        update = state["mean"] / corrected / (1 - beta1 ** state["step"])
        if group["weight_decay"]:
            update.add_(weights, alpha=group["weight_decay"])
            update.mul_(_trust(weights, update))
        weights.sub_(update, alpha=group["lr"])


def _trust(weights: Tensor, update: Tensor) -> Tensor:
    """Return ‖weights‖ / ‖update‖, or 1 where one of them is zero."""
    length, step = weights.norm(), update.norm()
    return torch.where((length > 0) & (step > 0), length / step, torch.ones_like(step))
