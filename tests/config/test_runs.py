"""The settings of a run refuse what cannot be, and are equal after a round trip."""

import pytest
import yaml

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.yaml_settings import resolve
from medmim.errors import SettingsError


def test_two_budgets_at_once_are_refused():
    with pytest.raises(SettingsError, match="expected one of steps, epochs, minutes, got steps and minutes"):
        resolve(PretrainSettings, flags={"steps": 1, "minutes": 2.0})


def test_two_numbers_of_labels_at_once_are_refused():
    with pytest.raises(SettingsError, match="expected one of num_labelled, label_fraction, got both"):
        resolve(FinetuneSettings, flags={"num_labelled": 1, "label_fraction": 0.5})


@pytest.mark.parametrize("ratio", [0, 1, 1.2, -0.1, "much"])
def test_a_ratio_outside_is_refused(ratio):
    with pytest.raises(SettingsError, match="ratio: "):
        resolve(PretrainSettings, flags={"ratio": ratio})


@pytest.mark.parametrize(
    ("given", "size"),
    [(64, (64,)), ("64", (64,)), ("40,56,40", (40, 56, 40)), ([40, 56], (40, 56)), ((8, 8), (8, 8))],
)
def test_sizes_are_numbers_or_text(given, size):
    assert resolve(PretrainSettings, flags={"size": given}).size == size


@pytest.mark.parametrize("given", [0, -4, "4,0", "wide", 1.5])
def test_sizes_that_are_none_are_refused(given):
    with pytest.raises(SettingsError, match="size"):
        resolve(PretrainSettings, flags={"size": given})


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        PretrainSettings().ratio = 0.5


def test_settings_survive_yaml():
    settings = resolve(PretrainSettings, flags={"size": (8, 8, 8), "cell": 4, "steps": 2})
    text = yaml.safe_dump(settings.model_dump(mode="json"))
    assert PretrainSettings.model_validate(yaml.safe_load(text)) == settings


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (8, (8,)),
        ("8", (8,)),
        ("8,8,4", (8, 8, 4)),
        ([8, 8, 4], (8, 8, 4)),
        ("8mm", ("8mm",)),
        ("8 mm, 16mm,16.50MM", ("8mm", "16mm", "16.5mm")),
        (["8mm", "16mm"], ("8mm", "16mm")),
    ],
)
def test_a_cell_is_in_voxels_or_millimetres(given, kept):
    assert PretrainSettings(cell=given).cell == kept


@pytest.mark.parametrize("given", ["0", "0mm", "-8mm", "8cm", "8,8mm", "8.5", 2.5, "", [8, "8mm"]])
def test_other_cells_are_refused(given):
    with pytest.raises(
        SettingsError, match="cell: expected voxels such as 8 or 8,8,4, or millimetres such as"
    ):
        resolve(PretrainSettings, flags={"cell": given})


def test_the_fingerprint_of_settings_keeps_the_names_of_0_1_0():
    settings = FinetuneSettings(mode="linear_probe", num_labelled=3)
    values = settings.fingerprint(exclude={"data"})
    assert (values["tune"], values["labelled"]) == ("probe", 3)
    assert values.keys() == {
        "dims", "size", "encoder", "encoder_options", "steps", "epochs", "minutes", "clock", "batch_size",
        "accumulate", "activation_checkpointing", "channels_last", "compile", "lr", "optimizer", "betas",
        "weight_decay", "weight_decay_end", "warmup", "warmup_start", "final_lr", "gradient_clip",
        "precision", "devices", "nodes", "workers", "seed", "evaluations", "cache_gb", "cache_disk_gb",
        "checkpoint_every_steps", "checkpoint_every_minutes", "on_nonfinite", "nonfinite_limit", "fold",
        "experiment", "task", "task_options", "init", "channels", "labelled", "label_fraction", "view",
        "tune", "encoder_lr", "layer_decay", "freeze", "ema", "regulariser", "least_loaded", "foreground",
        # new since 0.1.0, whose recipe differs: its trials are trained again
        "augment", "ignore_label", "mirror_axes", "normalisation", "spacing_mm", "window",
        "init_decoder", "machine", "patience",
    }  # fmt: skip
    assert PretrainSettings(mask_options={"max_ratio": 0.9}).fingerprint(exclude=set())["mask_options"] == {
        "up_to": 0.9
    }


def test_windows_and_spacings_are_read_from_words():
    chosen = FinetuneSettings.model_validate({"window": "-160,240", "spacing_mm": "0.8,0.8,3"})
    assert (chosen.window, chosen.spacing_mm) == ((-160.0, 240.0), (0.8, 0.8, 3.0))
    assert FinetuneSettings.model_validate({"spacing_mm": 1}).spacing_mm == (1.0,)
    with pytest.raises(ValueError, match="expected a lower and a higher intensity"):
        FinetuneSettings.model_validate({"window": "240,-160"})
