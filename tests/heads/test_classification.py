import pytest
import torch

from medmim.encoders import ENCODERS, build_encoder
from medmim.heads import build_head

OPTIONS = {
    "dynunet": {"filters": [4, 8, 8]},
    "resnet18": {"widths": [4, 4, 8, 8]},
    "resnet50": {"widths": [2, 2, 4, 4]},
    "vit": {"width": 16, "depth": 4, "heads": 2},
    "swin": {"width": 6, "depths": [1, 1, 1], "heads": [1, 2, 2]},
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_images_of_any_size_get_one_score_per_class(name, dims):
    encoder = build_encoder(name, spatial_dims=dims, in_channels=1, **OPTIONS.get(name, {}))
    classifier = build_head("classify", encoder=encoder, spatial_dims=dims, classes=3)
    size = tuple(2 * stride for stride in encoder.total_stride)
    scores = classifier(torch.randn(2, 1, *size))
    assert scores.shape == (2, 3)
    scores.square().mean().backward()
    assert classifier.score.weight.grad is not None


def test_dropout_is_active_in_training_only():
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=[4, 8])
    classifier = build_head("classify", encoder=encoder, spatial_dims=2, classes=2, dropout=0.5)
    images = torch.randn(1, 1, 16, 16)
    assert not torch.equal(classifier(images), classifier(images))
    classifier.eval()
    assert torch.equal(classifier(images), classifier(images))
