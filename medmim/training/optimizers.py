"""The optimizer, its parameter groups, and the learning rate of each layer of an encoder; and LAMB."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

from medmim.config.runs import FinetuneSettings


class Lamb(Optimizer):
    """LAMB: Adam with layer-wise trust ratios (You et al., ICLR 2020, arXiv 1904.00962).

    Algorithm 2 of the paper, with the bias corrections of Adam and φ(z) = z. As in the authors' code, weights
    without weight decay (norms, biases) use the plain step of Adam.
    """

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


Kind = Literal["adamw", "lamb", "sgd"]
_POSITIONS = ("relative_position_bias_table", "pos_embed", "positions.learned")  # names of learned positions
Rates = list[tuple[nn.Module, float]]


def build_optimizer(
    modules: Sequence[tuple[nn.Module, float]],
    *,
    weight_decay: float,
    kind: Kind = "adamw",
    betas: tuple[float, float] = (0.9, 0.95),
    decay_by_role: bool = True,
    undecayed: Sequence[torch.Tensor] = (),
) -> Optimizer:
    """Return the optimizer of modules; norms, biases, tokens, scales and positions have no weight decay.

    These are learned positions and parameters with at most one axis longer than 1, except weights of linear
    and convolutional layers, such as a head of one channel.

    Args:
        modules: each with its learning rate.
        kind: adamw, lamb (You et al., arXiv 1904.00962) or sgd with Nesterov momentum.
        betas: decay rates of the mean gradient and of its mean square; sgd uses the first as its momentum.
        decay_by_role: whether layer weights with one axis longer than 1 decay and learned positions do not;
            False: shape alone decides, as for states of 0.1.0.
        undecayed: further parameters without weight decay.
    """
    groups = []
    exempt = set(map(id, undecayed))
    for module, lr in modules:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        without_decay = exempt | _without_decay(module, decay_by_role=decay_by_role)
        flat = [p for p in trained if id(p) in without_decay]
        rest = [p for p in trained if id(p) not in without_decay]
        rates = {"lr": lr, "initial_lr": lr}
        # groups with `initial_weight_decay` follow the schedule of the weight decay
        decayed = {"weight_decay": weight_decay, "initial_weight_decay": weight_decay}
        groups += [{"params": rest, **rates, **decayed}, {"params": flat, **rates, "weight_decay": 0.0}]
    filled = [group for group in groups if group["params"]]
    if kind == "sgd":
        return torch.optim.SGD(filled, lr=1.0, momentum=betas[0], nesterov=betas[0] > 0)
    return (Lamb if kind == "lamb" else torch.optim.AdamW)(filled, betas=betas)


def _without_decay(module: nn.Module, *, decay_by_role: bool) -> set[int]:
    """Return the ids of a module's parameters that do not decay, for `build_optimizer`."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | _ConvNd)]
    weights = {id(layer.weight) for layer in layers} if decay_by_role else set()
    named = module.named_parameters() if decay_by_role else ()
    positions = {id(parameter) for name, parameter in named if name.endswith(_POSITIONS)}
    return positions | {
        id(p) for p in module.parameters() if sum(n > 1 for n in p.shape) <= 1 and id(p) not in weights
    }


def layers_of(encoder: nn.Module) -> list[nn.Module]:
    """Return the layers of an encoder, first to last: its children, and the items of module lists.

    A wrapper with a single child is replaced by that child. Parameters that belong to no child, such as a
    class token or positions, form the first layer.
    """
    children = list(encoder.children())
    own = list(encoder.parameters(recurse=False))
    if len(children) == 1 and not own and not isinstance(children[0], nn.ModuleList):
        return layers_of(children[0])
    layers: list[nn.Module] = [nn.ParameterList(own)] if own else []
    for child in children:
        layers += list(child) if isinstance(child, nn.ModuleList) else [child]
    return [layer for layer in layers if any(True for _ in layer.parameters())]


def encoder_rates(encoder: nn.Module, settings: FinetuneSettings) -> tuple[list[nn.Module], Rates]:
    """Return the frozen layers, and the others with their learning rates.

    The last layer learns at `lr · encoder_lr`, and each layer at `layer_decay` times the rate of the next.
    """
    layers = layers_of(encoder)
    frozen = {"full": 0, "partial": len(layers) // 2, "linear_probe": len(layers)}[settings.mode]
    if settings.encoder_lr == 0:
        frozen = len(layers)
    fastest = settings.lr * settings.encoder_lr
    rates = [
        (layer, fastest * settings.layer_decay ** (len(layers) - 1 - place))
        for place, layer in enumerate(layers)
    ]
    return layers[:frozen], rates[frozen:]
