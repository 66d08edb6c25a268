"""The source's slices of a dataset's volumes, found again by the keys that the manifest keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medmim import files
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.dataset.pseudonyms import Keys
from medmim.data.dicom.slices import Slice, position_and_steps
from medmim.data.dicom.write_segmentation import SourceSlice
from medmim.data.formats.geometry import Affine
from medmim.data.ingest.dicom_series import slice_id
from medmim.data.ingest.scan import ScannedFile, scan_file_as_json
from medmim.data.ingest.sources import walk
from medmim.data.sandbox.sandbox import Sandbox
from medmim.errors import DataError

Instances = Mapping[str, Sequence[Slice]]


def find_instances(source: Path, dataset: Dataset, *, keys: Keys, sandbox: Sandbox) -> Instances:
    """Read the headers of accepted DICOM files again; return their slices by the key of their instance.

    Args:
        source: folder that the dataset, or the part of one of its sources, was made from.
        dataset: the dataset; its volumes keep the keys of their slices.
        keys: the keys that the dataset was made with.
    """
    if not any(volume.slices for volume in dataset.volumes):
        return {}
    rows = [row for row in files.read_jsonl(dataset.root / "ledger.jsonl") if row["volume"]]
    used, names = {row["file"] for row in rows}, {row.get("source") or "" for row in rows}
    scopes = [keys, *map(keys.scoped, sorted(names - {""}))]
    root = source if source.is_dir() else source.parent
    paths = {
        one.number: one.file
        for one in walk(source)
        if any(scope.key("file", str(one.path.relative_to(root))) in used for scope in scopes)
    }
    tasks = [{"path": str(path)} for path in paths.values()]
    answers = sandbox.run_each(scan_file_as_json, tasks, keep=ScannedFile.model_validate)
    found: dict[str, list[Slice]] = defaultdict(list)
    for (number, path), answer in zip(paths.items(), answers, strict=True):
        for header in answer.value.headers if answer.value else ():
            one = Slice(number, path, header)
            # datasets of older versions have the key of the instance for frames too
            for name in {header.instance, slice_id(one)}:
                found[keys.key("instance", name)].append(one)
    return found


def slices_of_volume(volume: VolumeRecord, affine: Affine, instances: Instances) -> list[SourceSlice]:
    """Return the source slice at each position of a volume's third axis.

    Args:
        instances: slices by key.

    Raises:
        DataError: with reason source_not_found (in an archive, for example), no_place_in_space (single
            images), mosaic_source, uneven_source, reversed_rows_source, repeated_instance_uid or
            frames_unclear.
    """
    if "uneven_spacing_kept" in volume.repairs:
        raise _refusal("uneven_source")
    if "rows_reversed" in volume.repairs:
        raise _refusal("reversed_rows_source")
    found = [_slice_at(instances.get(key, ()), affine, place) for place, key in enumerate(volume.slices)]
    if len({(one.header.instance, one.header.frame) for one in found}) < len(found):
        raise _refusal("repeated_instance_uid")
    return [
        SourceSlice(
            file=str(one.path),
            frame=None if one.header.kind == "slice" else one.header.frame,
            place=tuple(position_and_steps(one.header)),
            size=(one.header.rows, one.header.columns),
        )
        for one in found
    ]


def _slice_at(candidates: Sequence[Slice], affine: Affine, place: int) -> Slice:
    """Return the only slice at a position of the third axis."""
    if not candidates:
        raise _refusal("source_not_found")
    kind = candidates[0].header.kind
    if kind == "tile":
        raise _refusal("mosaic_source")
    if candidates[0].header.position is None:
        raise _refusal("no_place_in_space")
    if kind == "slice" and len(candidates) == 1:
        return candidates[0]
    back = np.linalg.inv(affine)
    positions = np.array([one.header.position for one in candidates]) * [-1.0, -1.0, 1.0]
    heights = np.rint(positions @ back[2, :3] + back[2, 3])
    found = [one for one, height in zip(candidates, heights, strict=True) if height == place]
    if len(found) != 1:
        raise _refusal("frames_unclear")
    return found[0]


def _refusal(reason: str) -> DataError:
    return DataError("no DICOM-SEG: the slices of this volume cannot be referred to", reason=reason)
