"""Which volumes may show a face: a head scan can be recognised by its surface, whatever its header hides."""

from __future__ import annotations

from medmim.data.manifest import Volume

FLAG = {"recognizable_face": "possible"}
_SHOWS_SKIN = {"MR", "CT", "PT", "OT"}
_OTHER_PARTS = {"chest", "abdomen", "pelvis", "limb"}
_FACE_MM, _THIN_MM = 80.0, 20.0  # a slab must be this large along two sides and this thick to show a face


def face_flag(volume: Volume) -> dict[str, str]:
    """Return the flag for a volume that may show a face, else nothing.

    Nobody is told apart by a box smaller than a face, by a single picture, or by a part of the body that is
    known to be another. What is not known counts as possible: the flag warns, it does not promise.
    """
    if volume.spatial_dims != 3 or volume.modality not in _SHOWS_SKIN:
        return {}
    sides = [count * step for count, step in zip(volume.shape, volume.spacing_mm, strict=True)]
    known = set(volume.tokens)
    if sorted(sides)[1] < _FACE_MM or min(sides) < _THIN_MM:
        return {}
    if known & _OTHER_PARTS and not known & {"head", "neck"}:
        return {}
    return dict(FLAG)
