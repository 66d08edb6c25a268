"""Files built by hand to hurt a reader: sixty kinds, each in several versions that differ by a number."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from dicom_maker import make_slice
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image

Build = Callable[[int], bytes]


def saved(dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def sound(number: int):
    """A sound slice of a series of its own, so that no file hides another."""
    return make_slice(0, series=f"1.2.{number + 1000}", study=f"1.3.{number + 1000}", patient=f"H{number}")


def changed(**values) -> Build:
    """A slice with other values; a function is called with the number of the version."""

    def build(number: int) -> bytes:
        dataset = sound(number)
        for name, value in values.items():
            setattr(dataset, name, value(number) if callable(value) else value)
        return saved(dataset)

    return build


def element(group: int, number: int, vr: bytes, content: bytes, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    head = struct.pack("<HH", group, number) + vr
    long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    return head + (b"\0\0" + struct.pack("<I", size) if long else struct.pack("<H", size & 0xFFFF)) + content


def with_element(group: int, number: int, vr: bytes, content: bytes, length: int | None = None) -> Build:
    """A slice with one more element in front of its pixels."""

    def build(version: int) -> bytes:
        raw = saved(sound(version))
        place = raw.index(b"\xe0\x7f\x10\x00")
        return raw[:place] + element(group, number, vr, content, length) + raw[place:]

    return build


def text_of(tag: bytes, new: bytes) -> Build:
    """A slice whose element with this tag holds other text, of whatever length."""

    def build(version: int) -> bytes:
        raw = saved(sound(version))
        place = raw.index(tag)
        length = struct.unpack("<H", raw[place + 6 : place + 8])[0]
        new_head = raw[place : place + 6] + struct.pack("<H", len(new))
        return raw[:place] + new_head + new + raw[place + 8 + length :]

    return build


def nested(depth: int) -> Build:
    def build(version: int) -> bytes:
        undefined = struct.pack("<HH", 0x0008, 0x1140) + b"SQ\0\0\xff\xff\xff\xff"
        inner = (undefined + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * (depth + version)
        raw = saved(sound(version))
        place = raw.index(b"\x10\x00\x10\x00")
        return raw[:place] + inner + raw[place:]

    return build


def packed(syntax: str, rows: int, stream: bytes) -> Build:
    """A slice that promises more pixels than its compressed stream holds."""

    def build(version: int) -> bytes:
        dataset = sound(version)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.Rows = dataset.Columns = rows
        dataset.PixelData = encapsulate([stream + bytes(version * 2)])
        dataset["PixelData"].is_undefined_length = True
        return saved(dataset)

    return build


def deflated(size: int) -> Build:
    def build(version: int) -> bytes:
        raw = saved(sound(version))
        start = (
            raw.index(b"\x08\x00\x05\x00") if b"\x08\x00\x05\x00" in raw else raw.index(b"\x08\x00\x08\x00")
        )
        meta = raw[:start].replace(b"\x14\x001.2.840.10008.1.2.1\0", b"\x16\x001.2.840.10008.1.2.1.99")
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = packer.compress(raw[start:]) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(size))
        return meta + body + packer.flush()

    return build


def starting(start: bytes) -> Build:
    """A file with another format's first bytes in its preamble."""
    return lambda version: start.ljust(128, b"\0") + saved(sound(version))[128:]


def nifti(change: Callable[[bytearray], None], *, pack: bool = True, cut: int | None = None) -> Build:
    def build(version: int) -> bytes:
        values = np.random.default_rng(version).integers(0, 99, (6, 7, 8)).astype(np.int16)
        raw = bytearray(gzip.decompress(encode_image(Image(values, np.eye(4)))))
        change(raw)
        whole = bytes(raw[: cut + version] if cut else raw)
        return gzip.compress(whole) if pack else whole

    return build


def put(place: int, form: str, *values: float) -> Callable[[bytearray], None]:
    def change(raw: bytearray) -> None:
        struct.pack_into("<" + form, raw, place, *values)

    return change


def zipped(name: str, content: bytes, *, link: bool = False) -> Build:
    def build(version: int) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            info = zipfile.ZipInfo(name)
            if link:
                info.external_attr = 0o120777 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content + bytes(version))
        return stream.getvalue()

    return build


def dicomdir(reference: bytes) -> Build:
    def build(version: int) -> bytes:
        slices, directory = b"1.2.840.10008.5.1.4.1.1.4\0", b"1.2.840.10008.1.3.10".ljust(26, b"\0")
        raw = saved(sound(version)).replace(slices, directory)
        return raw + element(0x0004, 0x1500, b"CS", reference)

    return build


_BIG = struct.pack(">HH", 65535, 65535)
_SIZE = struct.pack(">8I", 60000, 60000, 0, 0, 60000, 60000, 0, 0)
_J2K = bytes.fromhex("ff4fff51002f0000") + _SIZE + bytes.fromhex("0001070101")
_JLS = b"\xff\xd8\xff\xf7\x00\x0b\x08" + _BIG + bytes.fromhex("01011100ffda00080101000000000000") + bytes(62)
_RLE = struct.pack("<16I", 2, 64, 70, *[0] * 13) + bytes(20)

DICOM: dict[str, Build] = {
    "nested 100": nested(100),
    "nested 300": nested(300),
    "nested 20000": nested(20_000),
    "length of 4 GiB": with_element(0x0009, 0x1010, b"OB", b"", 0xFFFFFFF0),
    "no delimiter": with_element(0x0009, 0x1010, b"SQ", b"\xfe\xff\x00\xe0\xff\xff\xff\xff", 0xFFFFFFFF),
    "odd length": with_element(0x0009, 0x0010, b"LO", b"odd"),
    "unknown VR": with_element(0x0009, 0x1011, b"ZZ", b"what"),
    "tag twice": with_element(0x0028, 0x0010, b"US", b"\xff\xff"),
    "tags out of order": with_element(0x0008, 0x0016, b"UI", b"1.2.3\0"),
    "deflate and 64 MiB of zeros": deflated(64),
    "deflate": deflated(1),
    "RLE bomb": packed(RLELossless, 30_000, _RLE),
    "RLE cut": packed(RLELossless, 8, _RLE[:30]),
    "RLE offsets": packed(RLELossless, 8, struct.pack("<16I", 15, *[0xFFFFFFF0] * 15)),
    "RLE no segments": packed(RLELossless, 8, bytes(64)),
    "J2K bomb": packed(JPEG2000Lossless, 60_000, _J2K),
    "J2K noise": packed(JPEG2000Lossless, 8, b"\xff\x4f" * 99),
    "JPEG-LS bomb": packed(JPEGLSLossless, 65_535, _JLS),
    "JPEG-LS noise": packed(JPEGLSLossless, 8, b"\xff\xf7" * 99),
    "65535 squared": changed(Rows=65_535, Columns=65_535),
    "no rows": changed(Rows=0),
    "a thousand million frames": changed(NumberOfFrames="1000000000"),
    "minus five frames": changed(NumberOfFrames="-5"),
    "12 bits": changed(BitsAllocated=12),
    "no bits": changed(BitsAllocated=0),
    "64 bits": changed(BitsAllocated=64),
    "no samples": changed(SamplesPerPixel=0),
    "many samples": changed(SamplesPerPixel=65_535),
    "spacing NaN": text_of(b"\x28\x00\x30\x00", b"NaN\\NaN "),
    "spacing 1e999": text_of(b"\x28\x00\x30\x00", b"1e999\\1 "),
    "spacing 0": text_of(b"\x28\x00\x30\x00", b"0\\0 "),
    "spacing words": text_of(b"\x28\x00\x30\x00", b"wide\\high "),
    "spacing negative": text_of(b"\x28\x00\x30\x00", b"-1\\-1 "),
    "zero directions": text_of(b"\x20\x00\x37\x00", b"0\\0\\0\\0\\0\\0 "),
    "directions infinite": text_of(b"\x20\x00\x37\x00", b"inf\\0\\0\\0\\1\\0 "),
    "position words": text_of(b"\x20\x00\x32\x00", b"here\\there\\x"),
    "position huge": text_of(b"\x20\x00\x32\x00", b"1e308\\1e308\\1e308 "),
    "rescale NaN": changed(RescaleSlope=1, RescaleIntercept=0, EchoTime=None),
    "unknown syntax": lambda n: saved(sound(n)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"),
    "big endian said": lambda n: saved(sound(n)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0"),
    "implicit said": lambda n: saved(sound(n)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"),
    "header only": lambda n: bytes(128) + b"DICM",
    "header cut": lambda n: saved(sound(n))[: 156 + n % 8],
    "half": lambda n: saved(sound(n))[: len(saved(sound(n))) // 2 + n],
    "zeros": lambda n: bytes(128) + b"DICM" + bytes(5000 + n),
    "ones": lambda n: bytes(128) + b"DICM" + b"\xff" * (5000 + n),
    "ELF": starting(b"\x7fELF\x02\x01\x01"),
    "PE": starting(b"MZ\x90\0"),
    "HTML": starting(b"<html><script>alert(1)</script>"),
    "ZIP start": starting(b"PK\x03\x04"),
    "DICOMDIR upwards": dicomdir(b"..\\..\\..\\etc\\passwd "),
    "DICOMDIR absolute": dicomdir(b"\\etc\\passwd "),
}
NIFTI: dict[str, Build] = {
    "dims huge": nifti(put(40, "8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)),
    "dims negative": nifti(put(40, "8h", 3, -6, 7, 8, 1, 1, 1, 1)),
    "dims 1000": nifti(put(40, "8h", 1000, 6, 7, 8, 1, 1, 1, 1)),
    "type unknown": nifti(put(70, "h", 9999)),
    "offset huge": nifti(put(108, "f", 1e30)),
    "offset NaN": nifti(put(108, "f", float("nan"))),
    "slope infinite": nifti(put(112, "2f", float("inf"), 0.0)),
    "affine NaN": nifti(put(280, "4f", *[float("nan")] * 4)),
    "affine zero": nifti(put(280, "12f", *[0.0] * 12)),
    "cut": nifti(lambda raw: None, pack=False, cut=400),
    "no gzip": nifti(lambda raw: None, pack=False),
    "bomb": lambda n: gzip.compress(bytes(64 << 20)),
    "noise": lambda n: bytes(range(256)) * (3 + n),
}
ARCHIVES: dict[str, Build] = {
    "zip slip": zipped("../../../escaped.dcm", b"x"),
    "zip absolute": zipped("/escaped.dcm", b"x"),
    "zip link": zipped("link", b"/etc/passwd", link=True),
    "zip bomb": zipped("zeros.dcm", bytes(64 << 20)),
    "zip in zip": zipped("inner.zip", zipped("inner.zip", b"PK")(0)),
}


def hostile_files(versions: int = 3) -> dict[str, bytes]:
    """Return name → content; every version of every kind."""
    made: dict[str, bytes] = {}
    for ending, kinds in {"dcm": DICOM, "nii.gz": NIFTI, "zip": ARCHIVES}.items():
        for place, (kind, build) in enumerate(kinds.items()):
            for version in range(versions):
                made[f"{kind}/{version}.{ending}"] = build(place * versions + version)
    return made
