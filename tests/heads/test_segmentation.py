import pytest
import torch

from medmim.encoders import ENCODERS, build_encoder
from medmim.errors import UsageError
from medmim.heads import HEADS, build_head

# narrow networks, for speed; encoders that are not listed use their defaults
OPTIONS = {
    "dynunet": {"filters": [4, 8, 8]},
    "resnet18": {"widths": [4, 4, 8, 8]},
    "resnet50": {"widths": [2, 2, 4, 4]},
    "swin": {"width": 6, "depths": [1, 1, 1], "heads": [1, 2, 2]},
    "vit": {"width": 16, "depth": 4, "heads": 2},
}


def network(name, dims, *, classes=3, **options):
    encoder = build_encoder(name, spatial_dims=dims, in_channels=1, **(options or OPTIONS.get(name, {})))
    return build_head("segment", encoder=encoder, spatial_dims=dims, classes=classes)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_scores_have_the_size_of_the_image(name, dims):
    segmenter = network(name, dims)
    factors = (2, 1, 3)[:dims]
    size = tuple(n * stride for n, stride in zip(factors, segmenter.encoder.total_stride, strict=True))
    scores = segmenter(torch.randn(2, 1, *size))
    assert scores.shape == (2, 3, *size)
    assert torch.isfinite(scores).all()


def test_strides_may_differ_between_axes():
    segmenter = network("dynunet", 3, filters=[4, 4, 8], strides=[1, [2, 2, 1], [2, 2, 2]])
    assert segmenter(torch.randn(1, 1, 8, 8, 4)).shape == (1, 3, 8, 8, 4)


def test_scores_have_full_resolution_with_a_strided_stem():
    segmenter = network("dynunet", 2, filters=[4, 8], strides=[[2, 1], 2])
    assert segmenter(torch.randn(1, 1, 16, 16)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(("halved", "channels"), [(False, 16), (True, 8)])
def test_full_resolution_can_have_half_the_channels(halved, channels):
    encoder = build_encoder("resnet18", spatial_dims=2, in_channels=1, widths=[16, 4, 8, 8])
    segmenter = build_head("segment", encoder=encoder, spatial_dims=2, classes=3, halved=halved)
    assert segmenter.channels == channels
    assert segmenter(torch.randn(1, 1, 32, 32)).shape == (1, 3, 32, 32)


def test_gradients_reach_every_parameter():
    segmenter = network("dynunet", 3)
    segmenter(torch.randn(1, 1, 8, 8, 8)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in segmenter.parameters())


def test_encoder_weights_keep_their_names():
    names = network("dynunet", 3).state_dict()
    assert any(name.startswith("encoder.stages.0") for name in names)


def test_an_unknown_task_is_rejected_with_a_suggestion():
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1)
    with pytest.raises(UsageError, match="unknown task 'segmnt'; did you mean 'segment'"):
        build_head("segmnt", encoder=encoder, spatial_dims=2, classes=2)


def test_every_entry_of_the_table_builds_a_module():
    assert set(HEADS) == {"classify", "detect", "multilabel", "ordinal", "regress", "segment"}
