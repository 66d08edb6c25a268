"""Matching of a model's classes with those of another dataset: by name, never by number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medmim.errors import UsageError

_NUMBERED = re.compile(r"(class|label)?[ _]?-?\d+")  # a name made from a number identifies nothing


@dataclass(frozen=True)
class ClassMatching:
    """Classes that are evaluated, and what they are called by the model and in the data.

    Attributes:
        names: evaluated classes, in the order of the model's.
        of_model: evaluated class of each class of the model; None: its predictions count as background.
        of_data: evaluated class of each class of the data; None: it counts as background.
    """

    names: tuple[str, ...]
    of_model: Mapping[str, str | None]
    of_data: Mapping[str, str | None]

    @property
    def renamed(self) -> bool:
        """Whether classes of the model are merged, renamed or left out."""
        return any(name != target for name, target in self.of_model.items())


def match_classes(
    model: Sequence[str],
    data: Sequence[str],
    *,
    label_map: Sequence[str] = (),
    subset: bool = False,
    same_source: bool = False,
) -> ClassMatching:
    """Match the classes of a model with those of a dataset by name, ignoring case.

    In pairs `MODEL=DATA` of `label_map`, several classes of one side may be paired with one class of the
    other, and an empty side leaves a class out. With `subset`, no case need show a class of the model. With
    `same_source`, the model was trained on this dataset, so that numbers mean the same.

    Raises:
        UsageError: if a class of either side has no counterpart, with both lists.
    """
    pairs = [_pair(text, model, data) for text in label_map]
    named = {name for pair in pairs for name in pair if name}
    by_name = {
        name.casefold(): name for name in data if same_source or not _NUMBERED.fullmatch(name.casefold())
    }
    for name in model:
        other = by_name.get(name.casefold())
        if other is not None and not {name, other} & named:
            pairs.append((name, other))
    of_model: dict[str, str | None] = {}
    of_data: dict[str, str | None] = {}
    for own, other in pairs:
        several = own is not None and sum(own == one for one, _ in pairs) > 1
        target = (own if several else other) if own and other else None
        if (own and of_model.setdefault(own, target) != target) or (
            other and of_data.setdefault(other, target) != target
        ):
            raise UsageError(
                f"--label-map: expected groups of classes that are merged on one side only, got "
                f"'{own or ''}={other or ''}' and another pair with one of these classes"
            )
    unmatched = [*(() if subset else (name for name in model if name not in of_model))]
    unmatched += [name for name in data if name not in of_data]
    if unmatched or not any(of_model.values()):
        raise _mismatch(model, data)
    of_model |= {name: name for name in model if name not in of_model}
    names = dict.fromkeys(of_model[name] for name in model)
    return ClassMatching(tuple(name for name in names if name), of_model, of_data)


def _pair(text: str, model: Sequence[str], data: Sequence[str]) -> tuple[str | None, str | None]:
    own, equals, other = (part.strip() for part in text.partition("="))
    if not equals or (own and own not in model) or (other and other not in data) or not own + other:
        raise UsageError(
            f"--label-map {text}: expected MODEL=DATA with a class of the model ({', '.join(model)}) and "
            f"one of the data ({', '.join(data)}); an empty side leaves a class out"
        )
    return own or None, other or None


def _mismatch(model: Sequence[str], data: Sequence[str]) -> UsageError:
    return UsageError(
        f"the classes of the model ({', '.join(model)}) do not match those of the data ({', '.join(data)}) "
        "by name: pair them with --label-map MODEL=DATA, once for each class; an empty side leaves one out"
    )
