"""Reconstruction and contrast from one pass: the sum of SparK's loss and the contrastive one."""

import pytest
import torch

from medmim.encoders import build_encoder
from medmim.errors import UsageError
from medmim.masks import build_mask
from medmim.methods import build_method


def build(name="mim_contrast", **options):
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 8))
    return build_method(name, encoder=encoder, spatial_dims=2, cell=(4, 4), **options)


@pytest.mark.parametrize("weight", [0.1, 2.0])
def test_the_loss_is_the_sum_of_both_methods_with_the_same_weights(weight):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 1, 16, 16, generator=generator)
    hidden = build_mask("random", ratio=0.5).sample(4, (4, 4), generator=generator)
    method = build(weight=weight)
    spark, contrastive = build("spark"), build("contrastive")
    for part in (spark, contrastive):
        part.load_state_dict({name: method.state_dict()[name] for name in part.state_dict()})
    calls = []
    method.encoder.register_forward_hook(lambda *_: calls.append(1))
    expected = spark(images, hidden).loss + weight * contrastive(images, hidden).loss
    torch.testing.assert_close(method(images, hidden).loss, expected)
    assert len(calls) == 1  # the teacher is another module


def test_a_weight_of_zero_is_rejected():
    with pytest.raises(UsageError, match=r"expected weight and temperature above 0 .* got 0, 0\.1 and 256$"):
        build(weight=0.0)
