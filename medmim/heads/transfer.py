"""Transfer of encoder weights: how much arrived is counted, named and, below a threshold, refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from medmim.errors import TransferError

PREFIX = "encoder."


@dataclass(frozen=True)
class Transfer:
    """What became of the tensors of an encoder.

    Attributes:
        loaded_fraction: share of the encoder's tensors that were filled.
        missing: tensors of the encoder that the weights do not hold.
        mismatching: tensors whose shapes differ.
        unused: tensors of the weights' encoder that this encoder does not have.
    """

    loaded_fraction: float
    missing: tuple[str, ...]
    mismatching: tuple[str, ...]
    unused: tuple[str, ...]


def transfer(encoder: nn.Module, weights: Mapping[str, Tensor], *, least: float = 0.99) -> Transfer:
    """Copy the tensors named `encoder.…` into an encoder.

    Args:
        encoder: the network to fill, in place; left as it was when the transfer is refused.
        weights: names → tensors, as `medmim pretrain` and `medmim finetune` write them.
        least: smallest share of the encoder's tensors that must arrive.

    Raises:
        TransferError: if fewer arrive; the message names the first of them.
    """
    offered = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    wanted = encoder.state_dict()
    missing = tuple(sorted(wanted.keys() - offered.keys()))
    shared = sorted(wanted.keys() & offered.keys())
    mismatching = tuple(name for name in shared if wanted[name].shape != offered[name].shape)
    fitting = {name: offered[name] for name in shared if name not in mismatching}
    result = Transfer(
        loaded_fraction=len(fitting) / max(len(wanted), 1),
        missing=missing,
        mismatching=mismatching,
        unused=tuple(sorted(offered.keys() - wanted.keys())),
    )
    if result.loaded_fraction < least:
        raise TransferError(
            f"only {result.loaded_fraction:.1%} of the encoder's {len(wanted)} tensors arrived, expected "
            f"{least:.0%}: {_name(missing, 'missing')}{_name(mismatching, 'of another shape')}"
            "use the encoder that was pretrained, or --init scratch"
        )
    encoder.load_state_dict(fitting, strict=False)
    return result


def _name(names: tuple[str, ...], what: str) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what} {', '.join(names[:3])}{more}; "
