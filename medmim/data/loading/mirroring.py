"""Axes along which images may be mirrored: chosen by the user or from the anatomy of the labels.

Mirroring exchanges left and right: it destroys labels such as "left kidney", and the position of organs on
one side. Axes are those of RAS order: 0 left–right, 1 front–back, 2 head–feet.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from monai.transforms.transform import Randomizable

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.loading.fingerprint import ClassStatistics, Fingerprint
from medmim.data.loading.transforms import Sample, axes_of
from medmim.errors import UsageError

AXES = {"left-right": 0, "front-back": 1, "head-feet": 2}
LEFT_RIGHT = 0
# each line: English, German, French, Spanish, Italian, Portuguese and Latin
_LEFT = (
    "left links linke linker linkes linken linkem gauche gauches izquierdo izquierda sinistro sinistra "
    "esquerdo esquerda sinister sinistrum"
)
_RIGHT = (
    "right rechts rechte rechter rechtes rechten rechtem droit droite droits droites derecho derecha destro "
    "destra direito direita dexter dextra dextrum"
)
_FULL_WORDS = {*_LEFT.split(), *_RIGHT.split()}
# these name a side only in pairs
_SHORT_LEFT, _SHORT_RIGHT = "l lh lt lft li g izq sx sin", "r rh rt rgt re d der dx dex dext"
_SIDES = {
    **dict.fromkeys(f"{_LEFT} {_SHORT_LEFT}".split(), "left"),
    **dict.fromkeys(f"{_RIGHT} {_SHORT_RIGHT}".split(), "right"),
}
_MOST_CASES = 0.75
_CENTRAL = 0.05  # of the width: on neither side
_ALIKE = 1.5  # ratio of volumes up to which two classes may be a pair


@dataclass(frozen=True)
class Mirroring:
    """Allowed mirroring axes in RAS order, and the reason for the log."""

    axes: tuple[int, ...]
    reason: str

    def line(self) -> str:
        """Return a sentence for the user."""
        names = [name for name, axis in AXES.items() if axis in self.axes]
        return f"mirroring: {', '.join(names) or 'none'} ({self.reason})"


def choose_mirroring(
    wanted: Sequence[str],
    *,
    default: Sequence[int],
    names: Iterable[str],
    fingerprint: Fingerprint | None,
    volumes: Sequence[VolumeRecord] = (),
) -> Mirroring:
    """Return the mirroring axes.

    Args:
        wanted: `auto`, `none`, or names of `AXES`.
        default: axes that `auto` allows where anatomy does not forbid left–right.
        fingerprint: positions of the classes in the training labels; None: labels are not used.
        volumes: training volumes, for the positions of their boxes.

    Raises:
        UsageError: for other names.
    """
    words = [word.strip().lower().replace("_", "-") for word in wanted]
    if words == ["none"]:
        return Mirroring((), "mirror_axes=none")
    if words != ["auto"]:
        unknown = [word for word in words if word not in AXES]
        if unknown or not words:
            raise UsageError(
                f"mirror_axes: expected auto, none, or some of {', '.join(AXES)}, got '{','.join(wanted)}'"
            )
        return Mirroring(tuple(sorted({AXES[word] for word in words})), "mirror_axes")
    sided = sided_names(names) or (sided_classes(fingerprint) if fingerprint else "") or sided_boxes(volumes)
    if sided:
        return Mirroring(tuple(axis for axis in default if axis != LEFT_RIGHT), f"left–right is off: {sided}")
    return Mirroring(tuple(default), "no class depends on the side")


def sided_names(names: Iterable[str]) -> str:
    """Return which class names contain a side, such as `kidney_left`, `Left-Hippocampus` or `ctx-lh-…`."""
    split = {name: _words(name) for name in names}
    stated = [name for name, words in split.items() if _FULL_WORDS & set(words)]
    if stated:
        return f"class '{stated[0]}' names a side"
    plain = {name: tuple(_SIDES.get(word, word) for word in words) for name, words in split.items()}
    for name, words in plain.items():
        swapped = tuple("right" if word == "left" else word for word in words)
        other = next((one for one, found in plain.items() if found == swapped != words), None)
        if other:
            return f"classes '{name}' and '{other}' are a left–right pair"
    compact = {re.sub(r"[\W_]", "", name).lower(): name for name in split}
    for short, name in compact.items():
        ends = (short.replace("left", "right"), re.sub("^l", "r", short), re.sub("l$", "r", short))
        if other := next((compact[one] for one in ends if one != short and one in compact), None):
            return f"classes '{name}' and '{other}' are a left–right pair"
    return ""


def _words(name: str) -> list[str]:
    spaced = re.sub(r"([a-z])(?=[A-Z])|([A-Z])(?=[A-Z][a-z])", r"\1\2 ", name)
    return [word for word in re.split(r"[^a-z]+", spaced.lower()) if word]


def sided_classes(fingerprint: Fingerprint) -> str:
    """Return which classes lie on one side in most cases, or are a left–right pair by position and size."""
    classes = list(fingerprint.classes)
    for number, one in enumerate(classes):
        for other in classes[number + 1 :]:
            if _are_pair(one, other):
                return f"classes {one.code} and {other.code} are a left–right pair by position and size"
    for one in classes:
        known = [side for side in one.sides if side is not None]
        if known and max(np.mean(np.greater(known, 0)), np.mean(np.less(known, 0))) >= _MOST_CASES:
            return f"class {one.code} lies on one side in {_MOST_CASES:.0%} or more of the cases"
    return ""


def sided_boxes(volumes: Sequence[VolumeRecord]) -> str:
    """Return the class whose boxes lie on one side in most cases."""
    sides: dict[str, list[float]] = defaultdict(list)
    for volume in volumes:
        axis = next(number for number, end in enumerate(volume.orientation) if end in "RL")
        for box in volume.boxes:
            dims = len(box.box) // 2
            if axis < dims:
                offset = (box.box[axis] + box.box[axis + dims]) / 2 / volume.shape[axis] - 0.5
                sides[box.name].append(float(np.sign(offset) * (abs(offset) > _CENTRAL)))
    for name, found in sides.items():
        if max(np.mean(np.greater(found, 0)), np.mean(np.less(found, 0))) >= _MOST_CASES:
            return f"boxes of class '{name}' lie on one side in {_MOST_CASES:.0%} or more of the cases"
    return ""


def _are_pair(one: ClassStatistics, other: ClassStatistics) -> bool:
    """Return whether one class lies on a fixed side of the other, with a similar volume."""
    offsets = [
        a - b for a, b in zip(one.positions, other.positions, strict=True) if a is not None and b is not None
    ]
    if not offsets or not 1 / _ALIKE <= one.ml / max(other.ml, 1e-9) <= _ALIKE:
        return False
    return bool(max(np.mean(np.greater(offsets, 0.1)), np.mean(np.less(offsets, -0.1))) >= _MOST_CASES)


class RandMirror(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Mirror along each allowed axis with probability 1/2.

    Args:
        axes: allowed axes in RAS order; those that a slice does not have are ignored.
    """

    def __init__(self, keys: Sequence[str], axes: Sequence[int]) -> None:
        self.keys = keys
        self.axes = axes

    def __call__(self, data: Sample) -> Sample:
        """Return the sample, mirrored."""
        flipped = [number for number, axis in enumerate(axes_of(data)) if axis in self.axes]
        chosen = [number + 1 for number in flipped if self.R.random() < 0.5]
        if not chosen:
            return data
        return {**data, **{key: data[key].flip(chosen) for key in self.keys}}
