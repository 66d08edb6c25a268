"""Sound files with random damage: flipped bits, cut ends, wrong lengths, types, orders and values."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom.data
from dicom_maker import make_slice
from hostile import saved
from pydicom.misc import is_dicom

from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image

_MAX_BYTES = 40_000
_TYPES = (b"DS", b"IS", b"UI", b"SQ", b"US", b"OW", b"UN", b"PN", b"FD", b"AT")
Damage = Callable[[bytearray, random.Random], None]


def _flip(raw: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 30)):
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)


def _cut(raw: bytearray, chance: random.Random) -> None:
    del raw[chance.randrange(len(raw)) :]


def _lengths(raw: bytearray, chance: random.Random) -> None:
    place = chance.randrange(max(1, min(len(raw), 3000) - 4))
    raw[place : place + 4] = chance.choice([b"\xff" * 4, b"\xf0\xff\xff\xff", b"\0" * 4, b"\1\0\0\x80"])


def _types(raw: bytearray, chance: random.Random) -> None:
    old = chance.choice(_TYPES)
    place = raw.find(old, chance.randrange(len(raw)))
    if place >= 0:
        raw[place : place + 2] = chance.choice(_TYPES)


def _move(raw: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(raw))
    piece = raw[start : start + chance.randint(1, 400)]
    if chance.random() < 0.5:
        del raw[start : start + len(piece)]
    place = chance.randrange(len(raw) + 1)
    raw[place:place] = piece


def _noise(raw: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(raw))
    raw[start : start + 64] = chance.randbytes(len(raw[start : start + 64]))


DAMAGES: tuple[Damage, ...] = (_flip, _cut, _lengths, _types, _move, _noise)


def _sources() -> list[bytes]:
    """Return files of every transfer syntax that pydicom brings along, as far as they are small."""
    folder = Path(pydicom.data.__file__).parent / "test_files"
    small = (path for path in sorted(folder.glob("*.dcm")) if path.stat().st_size < _MAX_BYTES)
    return [path.read_bytes() for path in small if is_dicom(path)]


def mutated(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents; no two files share a series, so that each is judged by itself."""
    chance = random.Random(seed)
    sources = _sources()
    for number in range(count):
        uid = f"1.2.99.{seed}.{number}"
        kind = chance.random()
        if kind < 0.1:
            array = np.random.default_rng(number).integers(0, 99, (6, 7, 8)).astype(np.int16)
            content, name = encode_image(Image(array, np.eye(4))), f"{number}.nii.gz"
            if chance.random() < 0.5:
                content, name = gzip.decompress(content), f"{number}.nii"
        elif kind < 0.5:
            content, name = saved(make_slice(0, series=uid, study=uid)), f"{number}.dcm"
        else:
            content, name = _renamed(chance.choice(sources), uid), f"{number}.dcm"
        raw = bytearray(content)
        for _ in range(chance.randint(1, 3)):
            if raw:
                chance.choice(DAMAGES)(raw, chance)
        yield name, bytes(raw)


def _renamed(content: bytes, uid: str) -> bytes:
    """Return a file with a series of its own, or as it is where pydicom cannot write it again."""
    stream = io.BytesIO()
    try:
        dataset = pydicom.dcmread(io.BytesIO(content))
        dataset.SeriesInstanceUID = dataset.StudyInstanceUID = uid
        dataset.SOPInstanceUID = f"{uid}.1"
        dataset.save_as(stream)
    except Exception:  # some of these files are broken on purpose
        return content
    return stream.getvalue()
