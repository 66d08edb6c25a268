"""`medmim methods`: the table of methods in the survey's taxonomy, with sizes and options."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from inspect import signature
from typing import Any

import torch

from medmim.config.runs import PretrainSettings
from medmim.config.yaml_settings import resolve
from medmim.encoders import build_encoder
from medmim.methods import METHODS, build_method
from medmim.stages.pretrain.setup import usual_encoder
from medmim.training.cost import size_of

_GIVEN = {"encoder", "spatial_dims", "cell", "supervision"}


@dataclass(frozen=True)
class MethodRow:
    """One method with its default options.

    Attributes:
        target, architecture, objective: axes of the survey (arXiv 2408.06687). Its masking axis is `--mask`
            with every method; the downstream task is not a property of a method, and fine-tuning runs are
            tagged `axis_task`.
        views: views of each image in a batch.
        sees_hidden: whether hidden content reaches the prediction by design.
        encoder_parameters: parameters of the encoder, which is kept.
        options: options for `--set method_options.NAME=…`, with their defaults.
    """

    method: str
    mask: str
    ratio: float
    encoder: str
    target: str
    architecture: str
    objective: str
    views: int
    sees_hidden: bool
    encoder_parameters: int
    parameters: int
    options: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return the row for `--json`."""
        return asdict(self)


def list_methods(dims: int) -> list[MethodRow]:
    """Return the table of methods for images of `dims` dimensions."""
    return [_row(name, dims) for name in METHODS]


def _row(name: str, dims: int) -> MethodRow:
    chosen = usual_encoder(name, dims)
    with torch.random.fork_rng(devices=[]):
        encoder = build_encoder(chosen, spatial_dims=dims, in_channels=1)
        method = build_method(name, encoder=encoder, spatial_dims=dims, cell=encoder.total_stride)
    size, usual = size_of(method), resolve(PretrainSettings, base=name, flags={"method": name})
    return MethodRow(
        method=name,
        mask=usual.mask,
        ratio=usual.ratio,
        encoder=chosen,
        **method.axes,
        views=method.views,
        sees_hidden=method.sees_hidden_content,
        encoder_parameters=size.encoder_parameters,
        parameters=size.parameters,
        options=_options(name),
    )


def _options(name: str) -> dict[str, Any]:
    known = signature(METHODS[name]).parameters
    return {key: known[key].default for key in known if key not in _GIVEN}
