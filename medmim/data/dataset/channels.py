"""Several volumes of one visit as the channels of one case, such as the sequences of an MR examination."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.dataset.vocabulary import VOCABULARY
from medmim.errors import DataError, UsageError


class ChannelStack(VolumeRecord):
    """The row of a case with several channels: that of the first one, with the label that any of them has.

    Attributes:
        channels: the volumes, in the order in which a network sees them.
    """

    channels: tuple[VolumeRecord, ...]


def channels_of(volume: VolumeRecord) -> tuple[VolumeRecord, ...]:
    """Return the volumes that a case is made of: itself, unless it has several channels."""
    return volume.channels if isinstance(volume, ChannelStack) else (volume,)


def stacked(
    volumes: Iterable[VolumeRecord], wanted: Sequence[str]
) -> tuple[tuple[ChannelStack, ...], tuple[VolumeRecord, ...]]:
    """Return the cases of the visits that have all the channels, and the volumes of all other visits.

    A visit is what shares subject and study. Each channel must be exactly one of its volumes: of two T1 scans
    nobody knows which is meant.

    Args:
        volumes: of a dataset.
        wanted: what tells each channel: words of the manifest's `tokens`, joined by +, such as `t1+post`.

    Raises:
        UsageError: for a word that no dataset tells, or two channels of the same words.
    """
    tokens = [_tokens(one) for one in wanted]
    if len(set(tokens)) < len(tokens):
        raise UsageError(f"channels: expected different ones, got {', '.join(wanted)}")
    visits: dict[tuple[str, str], list[VolumeRecord]] = defaultdict(list)
    for volume in volumes:
        visits[volume.subject, volume.study].append(volume)
    whole: list[ChannelStack] = []
    rest: list[VolumeRecord] = []
    for visit in visits.values():
        found = [[volume for volume in visit if one <= set(volume.tokens)] for one in tokens]
        if all(len(one) == 1 for one in found) and len({one[0].id for one in found}) == len(found):
            whole.append(_stack([one[0] for one in found]))
        else:
            rest += visit
    return tuple(whole), tuple(rest)


def with_channels(dataset: Dataset, wanted: Sequence[str], say: Callable[[str], None]) -> Dataset:
    """Return a dataset whose volumes are cases with these channels; what is left out is said.

    Raises:
        UsageError: for words that no dataset tells.
        DataError: if no visit has them all.
    """
    if not wanted:
        return dataset
    whole, rest = stacked(dataset.volumes, wanted)
    if not whole:
        known = sorted({" ".join(volume.tokens) or "no words" for volume in dataset.volumes})
        raise DataError(
            f"no visit has exactly one volume for each of the channels {', '.join(wanted)}; the volumes here "
            f"are told by: {'; '.join(known[:8])}",
            reason="channel_missing",
        )
    if rest:
        visits = len({(volume.subject, volume.study) for volume in rest})
        say(f"{visits} visits have not one volume for each of the channels {', '.join(wanted)}: left out")
    return Dataset(dataset.root, dataset.info, whole)


def _tokens(channel: str) -> frozenset[str]:
    words = channel.lower().split("+")
    unknown = [word for word in words if word not in VOCABULARY]
    if unknown:
        raise UsageError(
            f"channels: expected words such as t1+post or flair, got '{channel}'; known: "
            f"{', '.join(VOCABULARY)}"
        )
    return frozenset(words)


def _stack(channels: Sequence[VolumeRecord]) -> ChannelStack:
    labelled = next((one for one in channels if one.label), channels[0])
    marks = next((one for one in channels if one.boxes), channels[0])
    told = {
        **channels[0].model_dump(by_alias=True),
        "label": labelled.label,
        "label_sha256": labelled.label_sha256,
        "boxes": marks.boxes,
        "target": next((one.target for one in channels if one.target is not None), None),
    }
    return ChannelStack(**told, channels=tuple(channels))
