"""A corpus of scans in which every place that can hold a name holds one of its own, and a search for them."""

from __future__ import annotations

import gzip
import json
import re
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from dicom_maker import make_slice
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import Tag

_TEXTS = {"PN": 64, "LO": 64, "SH": 16, "ST": 1024, "LT": 1024, "UT": 1024, "UC": 1024, "AE": 16}
# what ingestion reads; a wrong value there is an error path and has its own place below
_KEPT = {"ImageType", "SpecificCharacterSet", "BurnedInAnnotation", "SeriesDescription", "ProtocolName"}
# both kinds of token, as they are and with the zeros of UTF-16 between; the look-ahead lets them overlap
_SHAPES = tuple(
    re.compile(rb"(?=(" + gap.join([*start, *[rb"\d"] * digits, *end]) + rb"))")
    for gap in (b"", b"\0")
    for start, digits, end in (
        ((b"Z", b"Q", b"X"), 5, (b"K", b"V")),
        ((b"7", b"7", b"3", b"4"), 6, (b"2", b"1")),
    )
)


class Tokens:
    """Gives tokens that occur nowhere else, and remembers where each was put."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}

    def word(self, place: str) -> str:
        """Return a new word such as ZQX00017KV, noted as put to `place`."""
        token = f"ZQX{len(self.places):05d}KV"
        self.places[token] = place
        return token

    def digits(self, place: str) -> str:
        """Return a new number of twelve digits, for UIDs and numbers."""
        token = f"7734{len(self.places):06d}21"
        self.places[token] = place
        return token

    def forget_lost(self, folder: Path) -> None:
        """Forget tokens that are not in the corpus after all: an element was set anew, a file cut."""
        paths = sorted(folder.rglob("*"))
        present = self.found_in({str(path): path.read_bytes() if path.is_file() else b"" for path in paths})
        self.places = {token: place for token, place in self.places.items() if token in present}

    def found_in(self, contents: dict[str, bytes]) -> dict[str, str]:
        """Return token → where it was put and where it was found; compressed content is looked into."""
        found = {}
        for name, content in contents.items():
            for view in _views(name, content):
                for shape in _SHAPES:
                    for match in shape.finditer(view):
                        token = match[1].replace(b"\0", b"").decode()
                        if token in self.places:
                            found.setdefault(token, f"{self.places[token]} → {name[:60]}")
        return found


def _views(name: str, content: bytes) -> list[bytes]:
    views = [name.encode("utf-8", "surrogateescape"), content]
    if content[:2] == b"\x1f\x8b":
        try:
            views.append(gzip.decompress(content))
        except (EOFError, OSError, zlib.error):
            views.append(zlib.decompressobj(31).decompress(content))
    return views


def text_tags() -> list[int]:
    """Return every tag of the standard that holds free text and that ingestion does not read."""
    groups = {0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040, 0x0088, 0x2110, 0x4008, 0x300A, 0x0400}
    return [
        tag
        for tag, (vr, _, _, retired, _) in sorted(DicomDictionary.items())
        if vr in _TEXTS and not retired and tag >> 16 in groups and keyword_for_tag(tag) not in _KEPT
    ]


def _fill(dataset: Dataset, tags: list[int], tokens: Tokens, place: str) -> None:
    for tag in tags:
        dataset.add_new(Tag(tag), DicomDictionary[tag][0], tokens.word(place))


def _slice(tokens: Tokens, number: int, series: str, names: dict[str, str]):
    dataset = make_slice(number, series=series, study=names["study"], patient=names["patient"])
    tags = text_tags()
    _fill(dataset, tags[number::6], tokens, "standard element")
    dataset.PatientID = names["patient"]
    inner = Dataset()
    _fill(inner, tags[number::9], tokens, "nested element")
    for depth in range(number % 3):
        outer = Dataset()
        outer.ReferencedImageSequence = [inner]
        outer.add_new(0x00081140, "SQ", [inner])
        _fill(outer, tags[depth::97], tokens, f"nested {depth + 2} deep")
        inner = outer
    dataset.add_new(0x00081140, "SQ", [inner])
    dataset.RequestAttributesSequence = [inner]
    block = dataset.private_block(0x0011, "MAKER", create=True)
    for place in range(8):
        block.add_new(place, "LO", tokens.word("private element"))
    block.add_new(0x20, "UN", tokens.word("private of unknown type").encode())
    dataset.add_new(0x00310010, "LO", tokens.word("private creator"))
    dataset.add_new(0x60000022, "LO", tokens.word("overlay"))
    dataset.add_new(0x60004000, "LT", tokens.word("overlay comment"))
    dataset.add_new(0x50000030, "SH", tokens.word("curve"))
    dataset.add_new(0xFFFCFFFC, "OB", tokens.word("padding").encode())
    dataset.SeriesDescription = f"T1 {tokens.word('series description')} ax"
    dataset.ProtocolName = tokens.word("protocol name")
    dataset.ImageType = ["ORIGINAL", "PRIMARY", names["image type"]]
    dataset.BodyPartExamined = tokens.word("body part")
    dataset.SOPInstanceUID = f"1.2.{tokens.digits('instance UID')}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.FrameOfReferenceUID = f"1.2.{tokens.digits('frame UID')}"
    dataset.StationName = tokens.word("station")
    dataset.file_meta.ImplementationVersionName = tokens.word("file meta")
    dataset.file_meta.SourceApplicationEntityTitle = tokens.word("file meta")
    dataset.file_meta.PrivateInformationCreatorUID = f"1.2.{tokens.digits('file meta')}"
    dataset.file_meta.PrivateInformation = tokens.word("file meta").encode()
    dataset.preamble = tokens.word("preamble").encode().ljust(128, b"\0")
    return dataset


def _broken(raw: bytes, tokens: Tokens, kind: int) -> bytes:
    """Return a slice that cannot be used, for a reason that tempts a reader to quote the value."""
    word = tokens.word("value on an error path").encode()
    tag = (b"\x28\x00\x30\x00", b"\x20\x00\x37\x00", b"\x20\x00\x32\x00", b"\x18\x00\x81\x00")[kind % 4]
    place = raw.index(tag)
    length = struct.unpack("<H", raw[place + 6 : place + 8])[0]
    value = word + b" " * (len(word) % 2)
    raw = raw[: place + 6] + struct.pack("<H", len(value)) + value + raw[place + 8 + length :]
    ends = {1: raw[: len(raw) - 60], 2: raw.replace(b"1.2.840.10008.1.2.1\0", b"1.2.9.9999.9.99.9.9\0")}
    return ends.get(kind % 5, raw) + tokens.word("after the end").encode()


def write_corpus(folder: Path, tokens: Tokens, *, bad: int) -> None:
    """Write series, damaged slices, volumes, side files and names, each with tokens of their own."""
    for _ in range(4):
        place = folder / tokens.word("folder name")
        place.mkdir(parents=True)
        names = {
            "patient": tokens.word("patient id"),
            "study": f"1.2.{tokens.digits('study UID')}",
            "image type": tokens.word("image type"),
        }
        uid = f"1.2.{tokens.digits('series UID')}"
        for number in range(6):
            path = place / f"{tokens.word('file name')}.dcm"
            _slice(tokens, number, uid, names).save_as(path, enforce_file_format=True)
        side = json.dumps({"PatientName": tokens.word("side file")})
        (place / f"{tokens.word('file name')}.json").write_text(side)
        (place / f"{tokens.word('file name')}.txt").write_text(tokens.word("text file"))
    for kind in range(bad):
        path = folder / "bad" / f"{tokens.word('name of a bad file')}.dcm"
        path.parent.mkdir(exist_ok=True)
        names = {
            "patient": tokens.word("patient of a bad file"),
            "study": f"1.2.{tokens.digits('study of a bad file')}",
            "image type": tokens.word("image type of a bad file"),
        }
        _slice(tokens, kind % 6, f"1.2.{tokens.digits('series of a bad file')}", names).save_as(
            path, enforce_file_format=True
        )
        path.write_bytes(_broken(path.read_bytes(), tokens, kind))
    for number in range(6):
        _write_nifti(folder / f"{tokens.word('file name')}.nii.gz", tokens, broken=number > 3)
    (folder / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + tokens.word("picture text").encode())
    (folder / "table.csv").write_text(f"name,{tokens.word('table')}\n")
    (folder / f"{tokens.word('link name')}").symlink_to(folder / "table.csv")
    tokens.forget_lost(folder)


def _write_nifti(path: Path, tokens: Tokens, *, broken: bool) -> None:
    array = np.random.default_rng(len(tokens.places)).integers(0, 900, (6, 7, 8)).astype(np.int16)
    image = nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0]))
    lengths = {"descrip": 80, "aux_file": 24, "intent_name": 16, "db_name": 18, "data_type": 10}
    for field, length in lengths.items():
        image.header[field] = tokens.word("NIfTI header")[:length].encode()
    comment = nib.nifti1.Nifti1Extension("comment", tokens.word("NIfTI extension").encode())
    image.header.extensions.append(comment)
    raw = image.to_bytes() + tokens.word("after the voxels").encode()
    with path.open("wb") as stream, gzip.GzipFile(tokens.word("gzip name"), "wb", fileobj=stream) as packed:
        packed.write(raw)
    if broken:
        path.write_bytes(path.read_bytes()[:-200])
