"""Conversion of uncompressed slices, whose pixels are read from the locations that the scan noted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from pydantic import validate_call

from medmim.data.dicom.conversion_task import (
    ConversionResult,
    ConversionTask,
    deviation_mm,
    finish,
    refusal,
)
from medmim.data.dicom.convert_with_decoder import convert_with_decoder
from medmim.data.dicom.rescale import Stored, rescale
from medmim.data.formats.file_types import open_regular
from medmim.errors import DataError


@validate_call
def convert_uncompressed(task: ConversionTask) -> ConversionResult:
    """Read the uncompressed slices of one stack, check the volume and write it; runs in a sandbox.

    Slices must be the files that were scanned and lie on the grid of the stack by their own headers. Values
    that use more bits than the header states go through the decoders of `convert_with_decoder`.
    """
    try:
        deviation = deviation_mm(task)
        stored = _read(task)
        if stored is None:
            return convert_with_decoder(task)
        measured = {"deviation_mm": round(deviation, 6), "slices_uncompressed": float(len(task.files))}
        return finish(rescale(stored, np.asarray(task.scales, np.float64)), task, measured)
    except DataError as error:
        return refusal(error)


def _read(task: ConversionTask) -> Stored | None:
    """Return the stored values, or None if some have bits set that the header calls unused.

    Raises:
        DataError: with reason changed_since_scan.
    """
    signed = task.raw[0].signed
    if any(raw.signed != signed for raw in task.raw):
        return None
    stored: Stored = np.empty((len(task.files), *task.size), np.dtype("<i2" if signed else "<u2"))
    for values, file, raw in zip(stored, task.files, task.raw, strict=True):
        with open_regular(Path(file), follow_links=False) as stream:
            changed = os.fstat(stream.fileno()).st_mtime_ns != raw.modified_ns
            stream.seek(raw.start)
            if changed or stream.readinto(values.view(np.uint8).reshape(-1)) != values.nbytes:
                raise DataError(
                    "file changed while it was read: expected a complete file; ingest again when nothing "
                    "writes to the source",
                    reason="changed_since_scan",
                )
        lowest, beyond = (-(1 << raw.bits - 1), 1 << raw.bits - 1) if signed else (0, 1 << raw.bits)
        if raw.bits < 16 and not (lowest <= values.min() and values.max() < beyond):
            return None
    return stored
