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
        missing: numbers of the input channels for which the visit has no volume.
    """

    channels: tuple[VolumeRecord, ...]
    missing: tuple[int, ...] = ()

    @property
    def places(self) -> list[int]:
        """Number of the input channel of each volume."""
        return [n for n in range(len(self.channels) + len(self.missing)) if n not in self.missing]


def channels_of(volume: VolumeRecord) -> tuple[VolumeRecord, ...]:
    """Return the volumes of a case, one per channel."""
    return volume.channels if isinstance(volume, ChannelStack) else (volume,)


def missing_channels(volume: VolumeRecord) -> tuple[int, ...]:
    """Return the numbers of the input channels that a case lacks."""
    return volume.missing if isinstance(volume, ChannelStack) else ()


def group_channels(
    volumes: Iterable[VolumeRecord], wanted: Sequence[str], *, incomplete: bool = False
) -> tuple[tuple[ChannelStack, ...], tuple[VolumeRecord, ...]]:
    """Return one case per visit that has all channels, and the volumes of all other visits.

    A visit is the volumes with the same subject and study. Each channel must match exactly one of them.

    Args:
        wanted: one channel each: entries of the manifest's `tokens` joined by +, such as `t1+post`.
        incomplete: visits that lack some of the channels are cases too.

    Raises:
        UsageError: for an unknown token, or two channels with the same tokens.
    """
    tokens = [_tokens(one) for one in wanted]
    if len(set(tokens)) < len(tokens):
        raise UsageError(f"channels: expected different channels, got {', '.join(wanted)}")
    whole: list[ChannelStack] = []
    rest: list[VolumeRecord] = []
    for visit in visits_of(volumes):
        found = [[volume for volume in visit if one <= set(volume.tokens)] for one in tokens]
        missing = tuple(number for number, one in enumerate(found) if not one)
        present = [one[0] for one in found if len(one) == 1]
        different = len({one.id for one in present}) == len(present) == len(found) - len(missing)
        if present and different and (incomplete or not missing):
            whole.append(_stack(present, missing))
        else:
            rest += visit
    return tuple(whole), tuple(rest)


def visits_of(volumes: Iterable[VolumeRecord]) -> list[list[VolumeRecord]]:
    """Return the volumes of each visit: those with the same subject and study."""
    visits: dict[tuple[str, str], list[VolumeRecord]] = defaultdict(list)
    for volume in volumes:
        visits[volume.subject, volume.study].append(volume)
    return list(visits.values())


def unmatched_channels(visit: Sequence[VolumeRecord], wanted: Sequence[str]) -> str:
    """Return which channels do not match exactly one volume of a visit, such as `no flair (of t1, t2)`."""
    counts = {one: sum(_tokens(one) <= set(volume.tokens) for volume in visit) for one in wanted}
    wrong = ", ".join(f"{count or 'no'} {one}" for one, count in counts.items() if count != 1)
    words = sorted("+".join(volume.tokens) or "volume without series tokens" for volume in visit)
    return f"{wrong or 'one volume for several channels'} (of {', '.join(words)})"


def select_channels(dataset: Dataset, wanted: Sequence[str], log: Callable[[str], None]) -> Dataset:
    """Return a dataset of cases with these channels; log the number of visits without them.

    Raises:
        UsageError: for unknown tokens.
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
    annotated = [{one.label_sha256 for one in case.channels if one.label} for case in whole]
    if several := sum(len(found) > 1 for found in annotated):
        log(
            f"warning: {counted(several, 'visit has', 'visits have')} different labels in their channels: "
            "that of the first channel with one is used"
        )
    return Dataset(dataset.root, dataset.info, whole)


def unstacked_channels(volumes: Iterable[VolumeRecord]) -> tuple[str, str]:
    """Return a line if visits have several volumes with the same label, as the channels of a case have.

    Returns:
        The line, and the channels as `--channels` takes them; both empty if there are none.
    """
    labels = [
        [one for one in visit if one.label_sha256 == visit[0].label_sha256]
        for visit in visits_of(one for one in volumes if one.label)
    ]
    shared = [visit for visit in labels if len({one.tokens for one in visit}) > 1]
    if not shared:
        return "", ""
    words = ",".join("+".join(one.tokens) or "?" for one in shared[0])
    visits = counted(len(shared), "visit has", "visits have")
    return f"{visits} a label that belongs to several volumes: each is a case of its own", words


def _tokens(channel: str) -> frozenset[str]:
    words = channel.lower().split("+")
    unknown = [word for word in words if word not in VOCABULARY]
    if unknown:
        raise UsageError(
            f"channels: expected series tokens such as t1+post or flair, got '{channel}'; known: "
            f"{', '.join(VOCABULARY)}"
        )
    return frozenset(words)


def _stack(channels: Sequence[VolumeRecord], missing: tuple[int, ...]) -> ChannelStack:
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
    return ChannelStack.model_construct(**row, channels=tuple(channels), missing=missing)
