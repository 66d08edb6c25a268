"""`medmim weights`: what a weights file contains, which encoder it fits, and what would be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medmim.config.value_types import InitMap
from medmim.encoders import build_encoder
from medmim.errors import TransferError, counted
from medmim.heads import transfer
from medmim.heads.transfer import PREFIX
from medmim.stages.initial_weights import read_weights_file


@dataclass(frozen=True)
class WeightsReport:
    """What a weights file contains and what of it an encoder of medmim loads.

    Attributes:
        family: the network that the names belong to.
        prefix: what precedes the names in the file.
        encoder, encoder_options, spatial_dims, in_channels: the encoder that was filled.
        tensors, parameters: size of the part that fits the encoder.
        loaded_fraction: share of the encoder's tensors that are loaded.
        rules: how values were adapted.
        mapping: lines with the names in the file and in the encoder.
        not_loaded: lines with tensors that are missing or do not fit.
        contamination: whether the patients that the weights have seen are recorded.
    """

    file: str
    family: str
    prefix: str
    encoder: str
    encoder_options: Mapping[str, Any]
    spatial_dims: int
    in_channels: int
    tensors: int
    parameters: int
    loaded_fraction: float
    rules: tuple[str, ...]
    mapping: tuple[str, ...]
    not_loaded: tuple[str, ...]
    contamination: str

    def as_json(self) -> dict[str, Any]:
        """Return the output of `--json`."""
        return asdict(self)


def inspect_weights(
    path: Path,
    *,
    rules: InitMap | None = None,
    dims: int | None = None,
    in_channels: int = 1,
) -> WeightsReport:
    """Describe a weights file, and fill the encoder that it fits to see what is loaded."""
    origin = read_weights_file(path, rules)
    chosen = dims or origin.description.get("spatial_dims")
    if chosen is None:
        raise TransferError(
            f"'{path.name}': no convolution from which to derive the number of axes: add --dims 2 or --dims 3"
        )
    options = dict(origin.description.get("encoder_options", {}))
    name = str(origin.description["encoder"])
    encoder = build_encoder(name, spatial_dims=chosen, in_channels=in_channels, **options)
    report = transfer(encoder, origin.weights, least=0.0)
    filled = [PREFIX + name for name, _ in encoder.named_parameters()]  # once each, unlike in nnU-Net's files
    public = origin.public
    return WeightsReport(
        file=path.name,
        family=public.family if public else f"medmim, {origin.description.get('kind', 'encoder')}",
        prefix=public.prefix if public else "",
        encoder=name,
        encoder_options=options,
        spatial_dims=chosen,
        in_channels=in_channels,
        tensors=len(origin.weights),
        parameters=sum(origin.weights[name].numel() for name in filled if name in origin.weights),
        loaded_fraction=report.loaded_fraction,
        rules=(*(public.rules if public else ()), *report.rules),
        mapping=tuple(public.lines()[1:]) if public else (),
        not_loaded=tuple(report.lines()),
        contamination="unknown"
        if origin.saw is None
        else f"{counted(len(origin.saw.patients), 'patient')} recorded",
    )
