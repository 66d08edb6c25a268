"""The components of a pretraining run."""

import pytest
import tiny

from medmim.config.runs import PretrainSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.errors import ShapeError, UsageError
from medmim.stages.pretrain.setup import build_pretraining, class_numbers, volumes_with_labels


def settings(data, **words):
    return PretrainSettings(**{**tiny.TINY, "data": data, "steps": 2, "size": None, "encoder": None, **words})


def test_open_settings_are_filled_in_from_the_dataset_and_nothing_is_written(tiny_dataset, home):
    before = {path for path in home.rglob("*") if "fingerprint" not in str(path)}
    run = build_pretraining(settings(tiny_dataset), home=home, log=lambda _: None)
    assert (run.settings.dims, run.settings.encoder) == (3, "dynunet")
    assert (run.settings.size, run.settings.cell) == (run.plan.size, run.module.cell)
    assert [volume.id for volume in run.train] == [volume.id for volume in run.partition.train]
    assert run.encoder is run.method.encoder
    assert {path for path in home.rglob("*") if "fingerprint" not in str(path)} == before


def test_an_impossible_size_is_refused_before_training(tiny_dataset, home):
    with pytest.raises(ShapeError, match="use --size 20,20,20"):
        build_pretraining(settings(tiny_dataset, size=(18,)), home=home, log=lambda _: None)


def test_compilation_of_packed_cells_is_refused_at_once(tiny_dataset, home):
    with pytest.raises(
        UsageError, match=r"^compile=true: torch\.compile cannot follow packed cells, .* masked$"
    ):
        build_pretraining(settings(tiny_dataset, compile=True), home=home, log=lambda _: None)
    build_pretraining(settings(tiny_dataset, compile=True, compute="masked"), home=home, log=lambda _: None)


def test_classes_are_numbered_in_alphabetical_order(tiny_dataset):
    volumes = read_dataset(tiny_dataset).volumes
    assert class_numbers(volumes) == {"calm": 0, "odd": 1}
    assert volumes_with_labels(volumes, "target") == volumes
    without = [volume.model_copy(update={"target": None, "label": None}) for volume in volumes]
    assert volumes_with_labels(without, "target") == volumes_with_labels(without, "label") == ()
    assert volumes_with_labels(without, None) == tuple(without)
