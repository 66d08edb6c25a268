"""`medmim pretrain` with methods on patches: exact resume, and what is learnt goes on to segmentation."""

import json

import pytest
import tiny
from interruption import PowerCut, PowerCutError
from safetensors.torch import load_file

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.errors import UsageError
from medmim.methods import METHODS, ON_PATCHES
from medmim.stages.finetune.run import finetune
from medmim.stages.pretrain.run import pretrain
from medmim.stages.resumption import stored_settings
from medmim.tracking.mlflow_store import Store

VIT = {"encoder": "vit", "encoder_options": {"patch": 4, "width": 24, "depth": 2, "heads": 2}}


RESNET = {"encoder": "resnet18", "encoder_options": {"widths": [4, 4, 6, 8]}, "dims": 2, "size": (32,)}


def settings(data, method, **words):
    base = {**tiny.TINY, **VIT, "data": data, "steps": 3, "num_evaluations": 3, "method": method}
    return PretrainSettings(**{**base, **words})


# one of each kind of state; the others share its code and run with the slow tests
FAST = ("spark", "latent_mim", "mim_contrast")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *(pytest.param(name, {}, marks=() if name in FAST else pytest.mark.slow) for name in sorted(METHODS)),
        pytest.param("mae", {"target": "ema"}),
        pytest.param("spark", {"target": "ema"}, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(tiny_dataset, home, method, options):
    words = {"method_options": options, **({} if method in ON_PATCHES else RESNET)}
    whole = pretrain(settings(tiny_dataset, method, **words), home=home)
    with pytest.raises(PowerCutError, match="power cut"):
        pretrain(settings(tiny_dataset, method, **words), home=home, callbacks=[PowerCut(2)])
    store = Store(home)
    broken = store.runs(stage="pretrain")[0].info.run_id
    stored = stored_settings(PretrainSettings, store, broken, data=tiny_dataset)
    resumed = pretrain(stored, home=home, resume="latest")
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", sorted(ON_PATCHES))
def test_pretraining_goes_on_to_segmentation(tiny_dataset, home, method, dims):
    pretrained = pretrain(settings(tiny_dataset, method, steps=1, num_evaluations=1, dims=dims), home=home)
    said = []
    words = {"data": tiny_dataset, "steps": 1, "num_evaluations": 1, "batch_size": 2, "workers": 0}
    tuned = finetune(FinetuneSettings(**words, size=(16,), precision="fp32"), home=home, log=said.append)
    assert any(line.startswith("100.0% of the encoder's tensors were loaded") for line in said)
    assert 0 <= tuned.metrics["test/dice"] <= 1
    encoder = {name for name in load_file(pretrained.checkpoint) if name.startswith("encoder.")}
    assert encoder == {name for name in load_file(tuned.checkpoint) if name.startswith("encoder.")}


def test_methods_on_patches_get_a_vision_transformer_and_its_patch_as_cell(tiny_dataset, home):
    chosen = PretrainSettings(
        data=tiny_dataset, method="mae", steps=1, num_evaluations=1, batch_size=2, workers=0,
        encoder_options=VIT["encoder_options"],
    )  # fmt: skip
    result = pretrain(chosen, home=home)
    stored = stored_settings(PretrainSettings, Store(home), result.run_id, data=tiny_dataset)
    assert (stored.encoder, stored.cell) == ("vit", (4, 4, 4))
    tags = Store(home).run(result.run_id).data.tags
    assert tags["axis_target"] == "normalised pixels"
    assert tags["axis_architecture"] == "ViT on visible patches"


def test_what_a_method_measures_beside_its_loss_is_logged(tiny_dataset, home):
    result = pretrain(settings(tiny_dataset, "latent_mim", steps=1, num_evaluations=1), home=home)
    assert {"last/val_loss", "last/val_cosine_targets", "last/val_cosine_visible"} <= result.metrics.keys()
    assert result.panel.read_bytes().startswith(b"\x89PNG")
    json.dumps(result.as_json(), allow_nan=False)


def test_how_cells_are_kept_from_a_cnn_is_refused_by_methods_on_patches(tiny_dataset, home):
    with pytest.raises(UsageError, match=r"^method 'mae' does not take the option 'compute'"):
        pretrain(settings(tiny_dataset, "mae", compute="masked"), home=home)
