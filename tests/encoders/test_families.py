"""Weights of public networks: recognised by their names, with outputs equal to the original's."""

import pytest
import torch
from monai.networks.nets.resnet import ResNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.swin_unetr import SwinTransformer
from monai.networks.nets.vit import ViT
from public_networks import ConvNeXt, MaskedAutoencoder
from torch import nn

from medmim.encoders import build_encoder
from medmim.encoders.families import FAMILIES
from medmim.encoders.public_weights import recognise
from medmim.encoders.resenc import SIZES
from medmim.errors import TransferError
from medmim.heads import transfer


def randomised(network):
    """The network with weights and statistics that are random and keep activations near one."""
    torch.manual_seed(0)
    for name, value in network.state_dict().items():
        if "running_var" in name or (("norm" in name or "bn" in name) and name.endswith("weight")):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            fan = value[0].numel() if value.dim() > 1 else 50
            value.normal_(std=fan**-0.5)
    return network.eval()


def loaded(weights, dims, channels=1):
    """The encoder that the weights fit, filled with them, and how they were named."""
    found = recognise(weights, FAMILIES)
    encoder = build_encoder(found.encoder, spatial_dims=dims, in_channels=channels, **found.options)
    assert transfer(encoder, found.weights).loaded_fraction == 1
    assert found.spatial_dims == dims
    return encoder.eval(), found


def outputs_of(modules, network, images):
    """The outputs of some modules of a network during one forward pass."""
    kept = []
    handles = [module.register_forward_hook(lambda *call: kept.append(call[2])) for module in modules]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return kept


def assert_equal(maps, expected):
    for one, other in zip(maps, expected, strict=True):
        assert float(other.abs().max()) > 0.1
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def stages(network):
    return [network.layer1, network.layer2, network.layer3, network.layer4]


def resnet(dims, block="basic", shortcut="B", channels=1, bias=False):
    layers, widths = ([1, 2, 1, 1], [4, 4, 8, 8])
    words = {"spatial_dims": dims, "n_input_channels": channels, "shortcut_type": shortcut}
    return randomised(
        ResNet(block, layers, widths, conv1_t_stride=2, bias_downsample=bias, num_classes=2, **words)
    )


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_medicalnet_resnets_give_equal_outputs(shortcut):
    network, images = resnet(3, shortcut=shortcut), torch.randn(1, 1, 64, 64, 64)
    weights = {f"state_dict.module.{name}": value for name, value in network.state_dict().items()}
    encoder, found = loaded(weights, 3)
    assert (found.encoder, found.prefix) == ("resnet18", "state_dict.module.")
    assert found.ignored == ("fc.weight", "fc.bias")
    with torch.no_grad():
        assert_equal(encoder(images), outputs_of(stages(network), network, images))


@pytest.mark.parametrize("prefix", ["", "module.sparse_encoder.sp_cnn."])
def test_torchvision_and_spark_resnets_give_equal_outputs(prefix):
    network, images = resnet(2, "bottleneck", channels=3), torch.randn(1, 3, 64, 64)
    old = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    encoder, found = loaded({f"{prefix}{name}": value for name, value in old.items()}, 2, channels=3)
    assert found.encoder == "resnet50"
    assert found.rules == ("bias of zero added (4)",)
    with torch.no_grad():
        assert_equal(encoder(images), outputs_of(stages(network), network, images))


def test_radimagenet_resnets_give_equal_outputs():
    network, images = resnet(2, "bottleneck", channels=3), torch.randn(1, 3, 64, 64)
    weights = nn.ModuleDict({"backbone": nn.Sequential(*list(network.children())[:-1])}).state_dict()
    encoder, found = loaded(weights, 2, channels=3)
    assert "RadImageNet" in found.family
    with torch.no_grad():
        assert_equal(encoder(images), outputs_of(stages(network), network, images))


def test_official_convnexts_give_equal_outputs():
    network, images = randomised(ConvNeXt(3, (4, 6, 8), (1, 2, 1))), torch.randn(2, 3, 32, 32)
    encoder, found = loaded({f"model.{name}": value for name, value in network.state_dict().items()}, 2, 3)
    assert found.options == {"widths": [4, 6, 8], "blocks": [1, 2, 1], "stem_stride": 4, "kernel_size": 7}
    with torch.no_grad():
        assert_equal(encoder(images), outputs_of(network.stages, network, images))


def test_masked_autoencoders_give_equal_outputs():
    network, images = (
        randomised(MaskedAutoencoder(3, 32, patch=8, width=64, depth=2)),
        torch.randn(2, 3, 32, 32),
    )
    encoder, found = loaded({f"model.{name}": value for name, value in network.state_dict().items()}, 2, 3)
    assert found.rules == ("position of the class token added to it",)
    assert found.options["position_grid"] == 4
    with torch.no_grad():
        expected = network(images)[:, 1:].transpose(1, 2).reshape(2, 64, 4, 4)
        assert_equal(encoder(images)[-1:], [expected])


def test_layer_scales_and_split_biases_are_folded():
    network, images = (
        randomised(MaskedAutoencoder(3, 32, patch=8, width=64, depth=2)),
        torch.randn(2, 3, 32, 32),
    )
    weights, factor = dict(network.state_dict()), torch.rand(64) + 0.5
    for number in range(2):
        qkv, proj = (f"blocks.{number}.attn.{name}" for name in ("qkv", "proj"))
        weights[f"{qkv}.bias"][64:128] = 0
        query, _, value = weights.pop(f"{qkv}.bias").chunk(3)
        weights |= {
            f"blocks.{number}.attn.q_bias": query.clone(),
            f"blocks.{number}.attn.v_bias": value.clone(),
        }
        weights[f"{proj}.weight"] = weights[f"{proj}.weight"] / factor[:, None]
        weights[f"{proj}.bias"] = weights[f"{proj}.bias"] / factor
        weights[f"blocks.{number}.gamma_1"] = factor
    encoder, found = loaded(weights, 2, 3)
    assert "layer scale folded into the layer before it (2)" in found.rules
    with torch.no_grad():
        expected = network(images)[:, 1:].transpose(1, 2).reshape(2, 64, 4, 4)
        assert_equal(encoder(images)[-1:], [expected])


def test_monai_vits_give_equal_outputs():
    words = {"hidden_size": 64, "mlp_dim": 256, "num_layers": 2, "num_heads": 1, "spatial_dims": 3}
    network, images = randomised(ViT(1, (16,) * 3, (8,) * 3, **words)), torch.randn(1, 1, 16, 16, 16)
    encoder, found = loaded(network.state_dict(), 3)
    assert found.options["heads"] == 1
    with torch.no_grad():
        expected = network(images)[0].transpose(1, 2).reshape(1, 64, 2, 2, 2)
        assert_equal(encoder(images)[-1:], [expected])


def test_swin_unetrs_give_equal_outputs():
    words = {"embed_dim": 12, "window_size": (4, 4, 4), "patch_size": (2, 2, 2), "num_heads": (1, 2, 4, 4)}
    network = randomised(SwinTransformer(1, depths=(2, 1, 1, 1), **words))  # as in SwinUNETR
    images = torch.randn(1, 1, 32, 32, 32)
    weights = {f"net.module.swinViT.{name}": value for name, value in network.state_dict().items()}
    encoder, found = loaded(weights, 3)
    assert "merged patches reordered" in found.rules
    last = [getattr(network, f"layers{number}")[0].blocks[-1] for number in range(1, 5)]
    maps = [value.movedim(-1, 1) for value in outputs_of(last, network, images)]
    maps[-1] = nn.functional.layer_norm(maps[-1].movedim(1, -1), (96,)).movedim(-1, 1)
    with torch.no_grad():
        assert_equal(encoder(images)[:3], maps[:3])
        torch.testing.assert_close(
            encoder(images)[3], maps[3], rtol=0, atol=1e-4
        )  # epsilon of 1e-6, not 1e-5


@pytest.mark.parametrize("timm", [False, True])
def test_official_swins_give_equal_outputs(timm):
    """MONAI's network with official names: its blocks and its merging in 2D equal the official ones."""
    words = {
        "embed_dim": 12,
        "window_size": (4, 4),
        "patch_size": (4, 4),
        "spatial_dims": 2,
        "patch_norm": True,
    }
    network = randomised(SwinTransformer(3, depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 4), **words))
    images = torch.randn(1, 3, 64, 64)
    weights = {"norm.weight": torch.ones(96), "norm.bias": torch.zeros(96)}
    for name, value in network.state_dict().items():
        stage = name.removeprefix("layers")[0] if name.startswith("layers") else ""
        new = name.replace(f"layers{stage}.0.", f"layers.{int(stage) - 1}.") if stage else name
        if stage != "4" or "downsample" not in name:
            new = (
                new.replace(f"layers.{int(stage or 1) - 1}.downsample", f"layers.{stage}.downsample")
                if timm
                else new
            )
            if not timm or "position_index" not in name:
                weights[new.replace("linear", "fc")] = value
    encoder, found = loaded({f"model.encoder.{name}": value for name, value in weights.items()}, 2, 3)
    assert "official" in found.family
    last = [getattr(network, f"layers{number}")[0].blocks[-1] for number in range(1, 4)]
    maps = [value.movedim(-1, 1) for value in outputs_of(last, network, images)]
    with torch.no_grad():
        assert_equal(encoder(images)[:3], maps)


def test_residual_encoders_of_nnssl_are_recognised_below_their_shortest_prefix():
    """Names and outputs equal nnU-Net's: `test_resenc.py`."""
    source = build_encoder("resenc", spatial_dims=3, in_channels=1, features=(4, 6, 8), blocks=(1, 2, 1))
    names = source.state_dict()
    weights = {
        f"network_weights.{where}{name}": names[name]
        for where in ("decoder.encoder.", "encoder.")
        for name in names
    }
    encoder, found = loaded(weights, 3)
    assert found.prefix == "network_weights.encoder."
    assert found.options == {"features": [4, 6, 8], "blocks": [1, 2, 1]}
    images = torch.randn(1, 1, 8, 12, 16)
    expected = source.eval()(images.permute(0, 1, 4, 3, 2))
    assert_equal(encoder(images), [one.permute(0, 1, 4, 3, 2) for one in expected])


def test_resenc_l_is_recognised_by_its_size():
    weights = {"stem.convs.0.conv.weight": torch.zeros(32, 1, 3, 3, 3)}
    for stage, (width, blocks) in enumerate(zip(*SIZES["L"], strict=True)):
        for block in range(blocks):
            weights[f"stages.{stage}.blocks.{block}.conv1.conv.weight"] = torch.zeros(width, 1, 3, 3, 3)
    assert recognise(weights, FAMILIES).options == {"size": "L"}


def test_segresnets_give_equal_outputs():
    network = randomised(
        SegResNet(init_filters=8, in_channels=1, out_channels=2, blocks_down=(1, 2, 1), blocks_up=(1, 1))
    )
    images = torch.randn(1, 1, 16, 16, 16)
    encoder, found = loaded(network.state_dict(), 3)
    assert found.options == {"width": 8, "blocks": [1, 2, 1]}
    with torch.no_grad():
        assert_equal(encoder(images), network.encode(images)[1][::-1][::-1])


@pytest.mark.parametrize("stem", ["conv0", "features.conv0"])
def test_networks_without_an_encoder_here_are_refused_by_name(stem):
    weights = {f"module.{stem.replace('conv', kind)}.weight": torch.ones(1) for kind in ("conv", "norm")}
    with pytest.raises(TransferError, match=r"weights of a DenseNet .*, an architecture that no encoder"):
        recognise(weights, FAMILIES)


@pytest.mark.parametrize(("other", "trained"), [("student", "teacher"), ("encoder_k", "encoder_q")])
def test_of_two_encoders_the_evaluated_one_is_loaded_and_the_other_is_named(other, trained):
    source = build_encoder("resenc", spatial_dims=2, in_channels=1, features=(4, 6), blocks=(1, 1))
    weights = {f"{trained}.{name}": value for name, value in source.state_dict().items()}
    weights |= {f"{other}.{name}": value + 1 for name, value in source.state_dict().items()}
    found = recognise(weights, FAMILIES)
    assert found.prefix == f"{trained}."
    assert f"the other copy below '{other}.' is not loaded" in found.rules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, value: None if "layer3" in name else value, r"incomplete .* \(KeyError: 'stages\.2\."),
        (
            lambda name, value: value.to(torch.int8),
            r"'conv1\.weight' has the type torch\.int8: expected float",
        ),
        (lambda name, value: value * torch.nan, r"'conv1\.weight' contains NaN or infinity"),
        (
            lambda name, value: value[:1] if "conv3" in name else value,
            r"ValueError: a ResNeXt or wide ResNet",
        ),
    ],
)
def test_incomplete_quantised_damaged_and_other_networks_are_refused(change, message):
    network = ResNet("bottleneck", [1, 1, 1, 1], [2, 2, 2, 2], spatial_dims=2, n_input_channels=1)
    weights = {name: change(name, value) for name, value in network.state_dict().items()}
    with pytest.raises(TransferError, match=message):
        recognise({name: value for name, value in weights.items() if value is not None}, FAMILIES)
