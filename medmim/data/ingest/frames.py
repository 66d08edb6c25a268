"""NIfTI files with a fourth axis: channels of one case, or time points of a series.

Up to `MAX_CHANNELS` frames are channels, as in tasks 1 and 5 of the Medical Segmentation Decathlon: every
frame becomes a volume with the token channel0, channel1, …, all of one visit, so that they can be used
alone or as channels. More frames, tokens such as bold and dwi, or 3D images of the same patient (as in ACDC)
mean a time series: it is quarantined, or every time point becomes a volume on request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from medmim.data.formats.nifti import count_frames
from medmim.data.formats.volumes import is_nifti
from medmim.data.ingest.cases import LayoutCase
from medmim.data.ingest.context import READ_LIMITS, IngestContext

MAX_CHANNELS = 10
_TIME_WORDS = frozenset(("bold", "dwi", "dti", "asl", "perf"))


def split_frames(context: IngestContext, cases: Sequence[LayoutCase]) -> tuple[LayoutCase, ...]:
    """Return the cases, with one case for every frame of files with a fourth axis.

    Cases of a time series that is not wanted stay as they are: reading them fails with reason time_series.
    """
    files = [case.image for case in cases if is_nifti(case.image)]
    tasks = [{"path": str(context.file(path))} for path in files]
    answers = context.each("headers", count_frames, tasks, limits=READ_LIMITS)
    counts = {path: answer.value or 1 for path, answer in zip(files, answers, strict=True)}
    plain = {case.subject for case in cases if counts.get(case.image, 1) == 1}
    choice = context.options.time_series
    found = [
        _frames_of(case, counts.get(case.image, 1), choice, alone=case.subject not in plain) for case in cases
    ]
    return tuple(one for frames in found for one in frames)


def frame_path(case: LayoutCase, source: Path) -> str:
    """Return the path of an image below the source, with the number of its frame, as key of the volume."""
    path = case.image.relative_to(source)
    return str(path) if case.frame is None else f"{path}#{case.frame}"


def _frames_of(case: LayoutCase, count: int, time_series: str, *, alone: bool) -> Iterator[LayoutCase]:
    channels = alone and count <= MAX_CHANNELS and not _TIME_WORDS & set(case.tokens)
    if count == 1 or (not channels and time_series == "reject"):
        yield case
        return
    for frame in range(count):
        tokens = (*case.tokens, f"channel{frame}") if channels else case.tokens
        yield replace(case, frame=frame, tokens=tokens)
