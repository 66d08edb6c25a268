"""Transfer of encoder weights: how much arrived is counted, named and, below a threshold, refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from medmim.errors import TransferError
from medmim.heads.adapt import adapted

PREFIX = "encoder."


@dataclass(frozen=True)
class Transfer:
    """What became of the tensors of an encoder.

    Attributes:
        loaded_fraction: share of the encoder's tensors that were filled.
        missing: tensors of the encoder that the weights do not hold.
        mismatching: tensors whose shapes differ and that no rule brings together.
        unused: tensors of the weights' encoder that this encoder does not have.
        changed: tensors that a rule brought to another shape, with the rule.
    """

    loaded_fraction: float
    missing: tuple[str, ...]
    mismatching: tuple[str, ...]
    unused: tuple[str, ...]
    changed: tuple[tuple[str, str], ...] = ()

    def lines(self) -> list[str]:
        """Return what the user should know beside the fraction, a line each."""
        rules = sorted({rule for _, rule in self.changed})
        by_rule = {rule: tuple(name for name, other in self.changed if other == rule) for rule in rules}
        said = [f"{rule}: {_list(names)}" for rule, names in by_rule.items()]
        said += [f"new: {_list(self.missing)}"] if self.missing else []
        said += [f"of another shape, left out: {_list(self.mismatching)}"] if self.mismatching else []
        return said


def transfer(encoder: nn.Module, weights: Mapping[str, Tensor], *, least: float = 0.99) -> Transfer:
    """Copy the tensors named `encoder.…` into an encoder; where shapes differ, by a rule of `heads/adapt.py`.

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
    fitting, changed, mismatching = {}, [], []
    for name in sorted(wanted.keys() & offered.keys()):
        shape = tuple(wanted[name].shape)
        found = (offered[name], "") if offered[name].shape == shape else adapted(name, offered[name], shape)
        if found is None:
            mismatching.append(name)
            continue
        fitting[name] = found[0]
        changed += [(name, found[1])] if found[1] else []
    result = Transfer(
        loaded_fraction=len(fitting) / max(len(wanted), 1),
        missing=missing,
        mismatching=tuple(mismatching),
        unused=tuple(sorted(offered.keys() - wanted.keys())),
        changed=tuple(changed),
    )
    if result.loaded_fraction < least:
        raise TransferError(
            f"only {result.loaded_fraction:.1%} of the encoder's {len(wanted)} tensors arrived, expected "
            f"{least:.0%}: {_name(missing, 'missing')}{_name(result.mismatching, 'of another shape')}"
            "use the encoder that was pretrained, or --init scratch"
        )
    encoder.load_state_dict(fitting, strict=False)
    return result


def stem_change(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """Say that the first stride differs from that of pretraining: weights fit, but see another scale.

    Args:
        old: options of the encoder in pretraining.
        new: its options now.
    """
    keys = [key for key in ("stem_stride", "max_pool", "strides", "patch") if old.get(key) != new.get(key)]
    return "; ".join(f"{key} {old.get(key, 'default')} → {new.get(key, 'default')}" for key in keys)


def _name(names: tuple[str, ...], what: str) -> str:
    return f"{what} {_list(names)}; " if names else ""


def _list(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
