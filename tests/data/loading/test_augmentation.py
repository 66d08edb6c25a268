"""Presets, files and callables of augmentation."""

import sys

import pytest
import torch
from monai.transforms.compose import Compose

from medmim.data.loading.augmentation import PRESETS, intensity_changes, load_augmentation
from medmim.errors import RunError, UsageError


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_keeps_shapes_and_finite_values(name, dims):
    changes = Compose(intensity_changes(PRESETS[name], dims))
    image = torch.randn(2, *(12,) * dims)
    for seed in range(12):
        changes.set_random_state(seed=seed)
        found = torch.as_tensor(changes({"image": image.clone()})["image"])
        assert found.shape == image.shape
        assert torch.isfinite(found).all()
    assert name != "none" or torch.equal(found, image)


def test_a_file_changes_a_preset(tmp_path):
    file = tmp_path / "strong.yaml"
    file.write_text("preset: nnunet\nrotation_deg: 90\n")
    changed = PRESETS["nnunet"].model_copy(update={"rotation_deg": 90.0})
    assert load_augmentation(str(file)) == changed
    assert load_augmentation({"preset": "nnunet", "rotation_deg": 90}) == changed
    assert load_augmentation({"gamma": 0.5}) == PRESETS["none"].model_copy(update={"gamma": 0.5})


@pytest.mark.parametrize("fields", [{"preset": "strong"}, {"gama": 0.5}, {"gamma": 2}])
def test_other_fields_are_refused(fields):
    with pytest.raises(UsageError, match=r"augment: cannot use .*expected fields such as preset: nnunet and"):
        load_augmentation(fields)


def make_doubling():
    """Return a transform of the user that doubles intensities."""
    return lambda sample: {**sample, "image": sample["image"] * 2}


def test_a_callable_replaces_the_intensity_changes():
    sys.modules.setdefault("test_augmentation", sys.modules[__name__])
    changes = intensity_changes(
        PRESETS["nnunet"].model_copy(update={"own": "test_augmentation:make_doubling"}), 2
    )
    image = torch.ones(1, 4, 4)
    assert torch.equal(Compose(changes)({"image": image})["image"], image * 2)


def make_cut():
    """Return a transform of the user that cuts the image."""
    return lambda sample: {**sample, "image": sample["image"][..., :2]}


def make_nothing():
    """Return a transform of the user that returns nothing."""
    return lambda sample: None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("make_cut", r"changed the shape of 'image': expected \(1, 4, 4\), got \(1, 4, 2\)"),
        ("make_nothing", r"must return the dict of tensors that it got \(image\), got NoneType"),
    ],
)
def test_what_an_own_transform_returns_is_checked(name, message):
    sys.modules.setdefault("test_augmentation", sys.modules[__name__])
    [change] = intensity_changes(PRESETS["nnunet"].model_copy(update={"own": f"test_augmentation:{name}"}), 2)
    with pytest.raises(RunError, match=message):
        change({"image": torch.ones(1, 4, 4)})


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("strong", "expected none, light, nnunet, a YAML file or module:callable, got 'strong'"),
        ("missing.yaml", "missing.yaml: expected a YAML text file that you may read"),
        ("no_such_module:make", "expected an importable 'module:callable'"),
    ],
)
def test_other_words_are_refused(word, message):
    with pytest.raises(UsageError, match=message):
        load_augmentation(word)
