"""Archives of many images give volumes with the split and class of the file."""

import numpy as np
from inline_context import make_context

from medmim.data.ingest.cases import DatasetLayout
from medmim.data.ingest.npz_arrays import volumes_from_arrays


def test_every_entry_is_a_volume_of_its_own_patient(tmp_path):
    chance = np.random.default_rng(0)
    pictures = {
        f"{part}_images": chance.integers(0, 255, (2, 8, 9), dtype=np.uint8) for part in ("train", "val")
    }
    pictures["val_images"][1] = 7  # one value everywhere: no image
    path = tmp_path / "set.npz"
    np.savez(path, train_labels=np.array([[0], [1]]), val_labels=np.array([[1, 1], [0, 1]]), **pictures)
    context = make_context(tmp_path / "staging")
    layout = DatasetLayout("medmnist", (), {}, {}, arrays={path: {0: "normal"}})
    made = volumes_from_arrays(context, tmp_path, layout=layout, numbers={path: 0})
    assert [(one.volume.split, one.volume.target) for one in made] == [
        ("train", "normal"), ("train", "class 1"), ("val", None),
    ]  # fmt: skip
    assert [one.volume.targets for one in made] == [{}, {}, {"normal": 1, "class 1": 1}]
    assert len({one.volume.subject for one in made}) == 3
    (row,) = context.ledger.rows()
    assert row.measured == {"images": 3, "images_refused": 1, "images_without_single_class": 1}
