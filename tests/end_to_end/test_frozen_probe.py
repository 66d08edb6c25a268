"""Probes of frozen features: use of the splits, and random weights."""

import frozen_probe as stage
import numpy as np
import pytest
import tiny
import torch
from frozen_probe import probe

from medmim.data.dataset.manifest import read_dataset
from medmim.data.dataset.splits import partition
from medmim.errors import DataError

RESNET = {"encoder": "resnet18", "encoder_options": {"widths": [4, 4, 6, 8]}, "size": 32, "seed": 0}


def rows(count, *, seed, apart=1.5, width=40):
    """Noisy features of two classes, of which only the first few tell them apart."""
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % 2
    features = rng.normal(size=(count, width))
    features[:, :4] += apart * (classes[:, None] - 0.5)
    return features.astype(np.float32), classes


def judged_by(monkeypatch):
    """The splits that come to be judged, filled as they come."""
    judged, judge = [], stage._evaluate
    monkeypatch.setattr(stage, "_evaluate", lambda *splits: judged.append(splits) or judge(*splits))
    return judged


def test_the_strength_is_chosen_on_validation_patients():
    train, val, test = rows(60, seed=0), rows(60, seed=1), rows(200, seed=2)
    found = stage._evaluate(train, val, test)
    assert 0.6 < found.linear_f1 < 1
    assert found.images == 200
    exchanged = stage._evaluate(train, val, (test[0], 1 - test[1]))
    assert exchanged.strength == found.strength
    assert exchanged.linear_f1 < 0.4
    scores = {}
    for strength in stage._STRENGTHS:
        model = stage.probes.linear(*train, strength=strength)
        scores[strength] = stage.probes.mean_f1_of_present(val[1], model.predict(val[0]))
    assert scores[found.strength] == max(scores.values())


def test_every_patient_of_a_split_is_used_and_no_other(tiny_dataset, monkeypatch):
    judged = judged_by(monkeypatch)
    probe(None, data=tiny_dataset, **RESNET)
    divided = partition(read_dataset(tiny_dataset), fold=None)
    assert [len(classes) for _, classes in judged[0]] == [
        len(part) for part in (divided.train, divided.val, divided.test)
    ]
    assert {features.shape[1] for features, _ in judged[0]} == {4 + 4 + 6 + 8}


def test_random_weights_are_seeded_and_recalibrated_on_whole_images(tiny_dataset, monkeypatch):
    judged = judged_by(monkeypatch)
    for seed in (0, 0, 1):
        probe(None, data=tiny_dataset, **{**RESNET, "seed": seed})
    monkeypatch.setattr(stage, "recalibrate_batch_norms", lambda *_: None)
    probe(None, data=tiny_dataset, **RESNET)
    first, again, other, unsettled = (splits[0][0] for splits in judged)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, unsettled)


def test_offsets_do_not_depend_on_the_global_random_state(tiny_dataset):
    torch.manual_seed(5)
    first = probe(None, data=tiny_dataset, **RESNET)
    torch.manual_seed(6)
    assert probe(None, data=tiny_dataset, **RESNET) == first


def test_one_class_cannot_be_probed(tmp_path):
    root = tiny.make_dataset(tmp_path / "bare", labels=False)
    with pytest.raises(DataError, match="needs training images of two classes or more"):
        probe(None, data=root, **RESNET)
