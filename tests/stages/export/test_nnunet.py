"""Checkpoints for nnU-Net: names, shapes and order of axes, and the plans; no nnU-Net is imported."""

import json

import pytest
import torch
from torch.nn import functional as F

from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.encoders import build_encoder
from medmim.errors import DataError, UsageError
from medmim.heads.transfer import PREFIX, transfer
from medmim.stages.export.nnunet import nnunet_files, planning_command, read_plans, training_command
from medmim.stages.export.run import export
from medmim.stages.initial_weights import read_weights_file
from medmim.training.tasks.trained_model import TrainedEncoder
from medmim.training.weights import save_weights

OPTIONS = {"features": [4, 6, 8], "blocks": [1, 2, 1], "kernel_sizes": [[3, 3, 1], [3, 3, 3], [3, 3, 3]]}
OPTIONS |= {"strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]]}  # axial slices, thick along z
FLAT = {"features": [4, 6], "blocks": [1, 1]}


def description(encoder, options, dims):
    about = {"encoder": encoder, "encoder_options": options, "spatial_dims": dims, "in_channels": 1}
    plan = PreprocessingPlan(dims, (16,) * dims, spacing_mm=(1.0, 1.0, 3.0))
    return {**about, "kind": "pretraining", "dataset_hash": "0" * 64, **plan.as_json()}


def trained(options, dims=3):
    torch.manual_seed(0)
    encoder = build_encoder("resenc", spatial_dims=dims, in_channels=1, **options)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    plan = PreprocessingPlan(dims, (16,) * dims, spacing_mm=(1.0, 1.0, 3.0))
    return TrainedEncoder(encoder.eval(), plan, description("resenc", options, dims))


def plans_of(channels=1, transpose=(0, 1, 2)):
    schemes = {"normalization_schemes": ["ZScoreNormalization"] * channels, "architecture": {"n": 1}}
    configurations = {
        "2d": {**schemes, "patch_size": [50, 40], "data_identifier": "nnUNetPlans_2d"},
        "3d_fullres": {**schemes, "patch_size": [10, 50, 40], "data_identifier": "nnUNetPlans_3d"},
    }
    return {
        "plans_name": "nnUNetPlans",
        "transpose_forward": list(transpose),
        "configurations": configurations,
    }


def written(trained_encoder, plans=None):
    images = torch.randn(3, 1, *[16] * trained_encoder.plan.dims)
    contents, difference = nnunet_files(trained_encoder, images, plans)
    assert difference <= 1e-5
    return contents


def loaded(contents, path):
    path.write_bytes(contents["checkpoint_final.pth"])
    return torch.load(path, weights_only=True)


def expected_names(dims, blocks):
    """Names of the tensors of nnU-Net's ResidualEncoderUNet without segmentation layers, written out."""
    pair = [
        f"{layer}.{kind}"
        for layer in ("conv", "norm", "all_modules.0", "all_modules.1")
        for kind in ("weight", "bias")
    ]
    stages = len(blocks)
    encoder = [f"stem.convs.0.{one}" for one in pair]
    for stage, count in enumerate(blocks):
        for block in range(count):
            place = f"stages.{stage}.blocks.{block}"
            encoder += [f"{place}.conv{number}.{one}" for number in (1, 2) for one in pair]
            if block == 0 and stage > 0:  # after the pooling of the shortcut
                encoder += [
                    f"{place}.skip.1.{one}" for one in pair if not one.endswith(("conv.bias", "0.bias"))
                ]
    decoder = [f"stages.{stage}.convs.0.{one}" for stage in range(stages - 1) for one in pair]
    decoder += [f"transpconvs.{stage}.{kind}" for stage in range(stages - 1) for kind in ("weight", "bias")]
    whole = [f"encoder.{one}" for one in encoder] + [f"decoder.encoder.{one}" for one in encoder]
    return {*whole, *(f"decoder.{one}" for one in decoder)}


@pytest.mark.parametrize(("dims", "options"), [(3, OPTIONS), (2, FLAT)])
def test_names_of_the_tensors_are_those_of_nnunets_network(dims, options, tmp_path):
    weights = loaded(written(trained(options, dims)), tmp_path / "weights")["network_weights"]
    assert set(weights) == expected_names(dims, options["blocks"])


def test_kernels_and_sizes_are_in_nnunets_order_of_axes(tmp_path):
    source = trained(OPTIONS)
    checkpoint = loaded(written(source), tmp_path / "weights")
    ours = source.encoder.state_dict()["stem.convs.0.conv.weight"]
    theirs = checkpoint["network_weights"]["encoder.stem.convs.0.conv.weight"]
    torch.testing.assert_close(theirs, ours.permute(0, 1, 4, 3, 2))
    images = torch.randn(1, 1, 8, 9, 7)
    found = F.conv3d(images.permute(0, 1, 4, 3, 2), theirs).permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(found, F.conv3d(images, ours))
    adaptation = checkpoint["nnssl_adaptation_plan"]
    arguments = adaptation["architecture_plans"]["arch_kwargs"]
    assert arguments["kernel_sizes"][0] == [1, 3, 3]
    assert arguments["strides"][1:] == [[1, 2, 2], [2, 2, 2]]
    [configuration] = adaptation["pretrain_plan"]["configurations"].values()
    assert configuration["spacing"] == [3.0, 1.0, 1.0]
    assert configuration["normalization_schemes"] == ["ZScoreNormalization"]


def test_plans_keep_the_preprocessed_data_and_get_the_architecture(tmp_path):
    plans = written(trained(OPTIONS), plans_of())["medmimPlans.json"]
    assert plans["plans_name"] == "medmimPlans"
    [(name, configuration)] = plans["configurations"].items()
    assert (name, configuration["data_identifier"]) == ("3d_fullres", "nnUNetPlans_3d")
    assert configuration["patch_size"] == [10, 52, 40]  # multiples of the total stride 2, 4, 4
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [4, 6, 8]
    assert list(written(trained(FLAT, 2), plans_of())["medmimPlans.json"]["configurations"]) == ["2d"]


def test_transposed_plans_and_more_channels_are_followed(tmp_path):
    contents = written(trained(OPTIONS), plans_of(channels=2, transpose=(1, 0, 2)))
    checkpoint = loaded(contents, tmp_path / "weights")
    stem = checkpoint["network_weights"]["encoder.stem.convs.0.conv.weight"]
    assert tuple(stem.shape) == (4, 2, 3, 1, 3)  # y, z, x
    assert checkpoint["nnssl_adaptation_plan"]["pretrain_num_input_channels"] == 2


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize(("dims", "options"), [(3, OPTIONS), (2, FLAT)])
def test_an_exported_encoder_comes_back_equal(dims, options, transpose, tmp_path):
    source = trained(options, dims)
    path = tmp_path / "checkpoint_final.pth"
    path.write_bytes(written(source, plans_of(transpose=transpose))["checkpoint_final.pth"])
    back = read_weights_file(path, None)
    encoder = build_encoder("resenc", spatial_dims=dims, in_channels=1, **back.description["encoder_options"])
    transfer(encoder, back.weights, least=1.0)
    images = torch.randn(1, 1, *[16] * dims)
    for one, other in zip(encoder(images), source.encoder(images), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_commands_of_nnunet_are_printed(tmp_path):
    plans = written(trained(FLAT, 2), {**plans_of(), "dataset_name": "Dataset007_Lung"})["medmimPlans.json"]
    assert planning_command("Dataset007_Lung").startswith("nnUNetv2_plan_and_preprocess -d 7 ")
    assert training_command(tmp_path, tmp_path / "made" / "nnUNetPlans.json", plans).endswith(
        f"/made/ && nnUNetv2_train Dataset007_Lung 2d 0 -p medmimPlans -pretrained_weights {tmp_path}"
        "/checkpoint_final.pth"
    )


def test_patches_have_two_values_or_more_on_the_coarsest_map():
    plans = plans_of()
    plans["configurations"]["2d"]["patch_size"] = [2, 1]
    adapted = written(trained(FLAT, 2), plans)["medmimPlans.json"]
    assert adapted["configurations"]["2d"]["patch_size"] == [4, 4]


def test_plans_and_encoders_that_do_not_fit_are_refused(tiny_dataset, tmp_path, home):
    damaged = tmp_path / "plans.json"
    damaged.write_text(json.dumps({"transpose_forward": [0, 1, 2]}))
    with pytest.raises(DataError, match=r"expected the JSON file that nnUNetv2_plan_experiment writes"):
        read_plans(damaged)
    plans = plans_of()
    del plans["configurations"]["2d"]
    with pytest.raises(UsageError, match=r"expected a configuration '2d' for a 2D encoder, got 3d_fullres"):
        written(trained(FLAT, 2), plans)
    options = {"filters": [4, 8, 8]}
    encoder = build_encoder("dynunet", spatial_dims=3, in_channels=1, **options)
    weights = {PREFIX + name: value for name, value in encoder.state_dict().items()}
    path = save_weights(tmp_path / "other", weights, description("dynunet", options, 3))
    with pytest.raises(UsageError, match=r"expected a `resenc` encoder of two stages or more, got 'dynunet'"):
        export("nnunet", data=tiny_dataset, home=home, model=str(path), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
