"""Datasets of a few voxels, written as `medmim ingest` writes them, and the smallest useful settings."""

import hashlib

import numpy as np

from medmim.data.dataset.manifest import DatasetInfo, LedgerRow, VolumeRecord, write_dataset
from medmim.data.dataset.splits import assign_splits
from medmim.data.formats.annotations import box_records, boxes_from_label
from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image
from medmim.encoders import ENCODERS, TokenEncoder

SHAPE = (20, 16, 16)
NAMES = {1: "core", 2: "rim"}
CLASSES = ("calm", "odd")
# what a test of a run gives, so that a step takes a fraction of a second
TINY = {
    "size": (16,),
    "encoder": "dynunet",
    "encoder_options": {"filters": [4, 8, 8]},
    "batch_size": 2,
    "workers": 0,
    "precision": "fp32",
}
TINY_WORDS = [
    *("--size", "16", "--encoder", "dynunet", "--batch-size", "2", "--workers", "0", "--precision", "fp32"),
    *("--set", "encoder_options={filters: [4, 8, 8]}"),
]


def row(
    subject="p0", number=0, *, shape=SHAPE, spacing=(1.0, 1.0, 1.0), orientation="RAS", label=True, split=None
):
    """A row of the manifest whose files do not exist."""
    return VolumeRecord(
        id=hashlib.sha256(f"{subject}/{number}".encode()).hexdigest()[:16],
        subject=subject,
        study=f"study{number}",
        series=f"series{subject}{number}",
        image=f"volumes/{subject}/{number}.nii.gz",
        modality="MR",
        spatial_dims=3,
        shape=shape,
        spacing_mm=spacing,
        orientation=orientation,
        sha256="0" * 64,
        verdict="right",
        label=f"labels/{subject}/{number}.nii.gz" if label else None,
        split=split,
    )


def affine_of(orientation, spacing, shape):
    """Voxel to RAS mm for an array whose axes run towards `orientation`."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (end, step) in enumerate(zip(orientation, spacing, strict=True)):
        world = next(number for number, pair in enumerate(("RL", "AP", "SI")) if end in pair)
        sign = 1 if end in "RAS" else -1
        affine[world, axis] = sign * step
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) / 2) + [3.0, -5.0, 7.0]
    return affine


def blob(rng, shape, *, empty=False):
    """An image with a bright ball in a brighter shell on noise, and the label: 1 ball, 2 shell."""
    centre = np.array(shape) / 2 + rng.uniform(-2, 2, size=3)
    distance = np.sqrt(sum((grid - c) ** 2 for grid, c in zip(np.indices(shape), centre, strict=True)))
    label = np.where(distance < 3, 1, np.where(distance < 5, 2, 0)).astype(np.uint8)
    if empty:
        label[:] = 0
    image = rng.normal(0, 5, size=shape) + np.choose(label, [0, 100, 200])
    return image.astype(np.float32), label


def write_volume(root, subject, image, affine, *, label=None, split=None, number=0, modality="MR"):
    """Write one volume (and its label) and return its row."""
    place = f"{subject}/study{number}/vol{number}.nii.gz"
    scan = Image(image, affine)
    content = {f"volumes/{place}": encode_image(scan)}
    if label is not None:
        content[f"labels/{place}"] = encode_image(Image(label, affine))
    digests = {}
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        digests[name] = hashlib.sha256(data).hexdigest()
    written = {
        "image": f"volumes/{place}",
        "modality": modality,
        "sha256": digests[f"volumes/{place}"],
        "label": None if label is None else f"labels/{place}",
        "label_sha256": digests.get(f"labels/{place}"),
    }
    described = row(
        subject, number, shape=image.shape, spacing=scan.spacing_mm, orientation=scan.orientation, split=split
    )
    return described.model_copy(update=written)


def make_dataset(root, *, patients=10, varied=False, labels=True, names=NAMES, name="tiny", seed=0):
    """Write a dataset folder of one volume a patient and return its path.

    With labels come boxes around their parts and a class, every other patient's the same.
    varied: spacings and orientations differ, and one patient has a second volume.
    """
    rng = np.random.default_rng(seed)
    subjects = [hashlib.sha256(f"{seed}/{number}".encode()).hexdigest()[:16] for number in range(patients)]
    splits = assign_splits(dict.fromkeys(subjects, labels), {})
    orientations = ["RAS", "LPS", "SLA", "PIR"] if varied else ["RAS"]
    spacings = [(1.0, 1.0, 1.0), (1.0, 1.2, 1.5), (1.5, 1.0, 1.0)] if varied else [(1.0, 1.0, 1.0)]
    rows = []
    for number, subject in enumerate(subjects):
        for volume in range(2 if varied and number == 0 else 1):
            image, label = blob(rng, SHAPE)
            spacing = spacings[number % len(spacings)]
            affine = affine_of(orientations[number % len(orientations)], spacing, SHAPE)
            written = write_volume(
                root,
                subject,
                image,
                affine,
                label=label if labels else None,
                split=splits[subject],
                number=volume,
            )
            found = box_records(boxes_from_label(Image(label, affine), NAMES)) if labels else ()
            target = CLASSES[number % len(CLASSES)] if labels else None
            rows.append(written.model_copy(update={"boxes": found, "target": target}))
    ledger = [
        LedgerRow(number=i, file=f"file{i}", fate="accepted", reason="ok", volume=row.id)
        for i, row in enumerate(rows)
    ]
    write_dataset(root, DatasetInfo(name=name, label_names=names if labels else {}), rows, ledger)
    return root


def begins_with_patches(name):
    """Whether an entry of the table of encoders takes hidden cells as patches, and not as hidden voxels."""
    build = ENCODERS[name]
    return isinstance(build, type) and issubclass(build, TokenEncoder)


ON_PATCHES = sorted(name for name in ENCODERS if begins_with_patches(name))
ON_VOXELS = sorted(set(ENCODERS) - set(ON_PATCHES))


def flip_a_bit(path, chance):
    """Change one bit of a file, as storage that decays does."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content))
