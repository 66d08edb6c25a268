"""Which layers of an encoder are trained in fine-tuning, and how fast each of them."""

from __future__ import annotations

from torch import nn

from medmim.config.runs import FinetuneSettings

Rates = list[tuple[nn.Module, float]]


def layers_of(encoder: nn.Module) -> list[nn.Module]:
    """Return the layers of an encoder, first to last: its children, those in lists one by one.

    A wrapper with one child is looked through. Parameters that belong to no child, such as a class token or
    positions, are the first layer.
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
    """Return the layers that stay frozen, and the others with their learning rates.

    The last layer learns at `lr · encoder_lr`, each one before it `layer_decay` times as fast as the next.
    """
    layers = layers_of(encoder)
    still = {"full": 0, "partial": len(layers) // 2, "linear_probe": len(layers)}[settings.mode]
    if settings.encoder_lr == 0:
        still = len(layers)
    fastest = settings.lr * settings.encoder_lr
    rates = [
        (layer, fastest * settings.layer_decay ** (len(layers) - 1 - place))
        for place, layer in enumerate(layers)
    ]
    return layers[:still], rates[still:]
