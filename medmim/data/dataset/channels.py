"""Cases with several channels: volumes of one visit, such as the sequences of an MR examination."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.dataset.series_tokens import VOCABULARY
from medmim.errors import DataError, UsageError, counted


class ChannelStack(VolumeRecord):
    """Row of a case with several channels: that of the first one, with the annotations of any channel.

    Attributes:
        channels: the volumes in the order of the network's input channels.
    """

    channels: tuple[VolumeRecord, ...]


def channels_of(volume: VolumeRecord) -> tuple[VolumeRecord, ...]:
    """Return the volumes of a case, one per channel."""
    return volume.channels if isinstance(volume, ChannelStack) else (volume,)


def group_channels(
    volumes: Iterable[VolumeRecord], wanted: Sequence[str]
) -> tuple[tuple[ChannelStack, ...], tuple[VolumeRecord, ...]]:
    """Return one case per visit that has all channels, and the volumes of all other visits.

    A visit is the volumes with the same subject and study. Each channel must match exactly one of them.

    Args:
        wanted: one channel each: words of the manifest's `tokens` joined by +, such as `t1+post`.

    Raises:
        UsageError: for an unknown word, or two channels with the same words.
    """
    tokens = [_tokens(one) for one in wanted]
    if len(set(tokens)) < len(tokens):
        raise UsageError(f"channels: expected different channels, got {', '.join(wanted)}")
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


def select_channels(dataset: Dataset, wanted: Sequence[str], log: Callable[[str], None]) -> Dataset:
    """Return a dataset of cases with these channels; log the number of visits without them.

    Raises:
        UsageError: for unknown words.
        DataError: if no visit has all channels.
    """
    if not wanted:
        return dataset
    whole, rest = group_channels(dataset.volumes, wanted)
    if not whole:
        known = sorted({" ".join(volume.tokens) or "none" for volume in dataset.volumes})
        raise DataError(
            f"no visit has exactly one volume for each of the channels {', '.join(wanted)}; tokens of the "
            f"volumes are: {'; '.join(known[:8])}",
            reason="channel_missing",
        )
    if rest:
        visits = len({(volume.subject, volume.study) for volume in rest})
        log(
            f"excluded {counted(visits, 'visit')} without exactly one volume per channel: {', '.join(wanted)}"
        )
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
    row = {
        **dict(channels[0]),
        "label": labelled.label,
        "label_sha256": labelled.label_sha256,
        "boxes": marks.boxes,
        "target": next((one.target for one in channels if one.target is not None), None),
        "targets": next((one.targets for one in channels if one.targets), {}),
    }
    # not validated again: volumes of several datasets have absolute paths, which a manifest may not have
    return ChannelStack.model_construct(**row, channels=tuple(channels))
