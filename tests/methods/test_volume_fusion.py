"""Volume Fusion: boxes, coefficients and the mixture."""

import pytest
import torch

from medmim.encoders import build_encoder
from medmim.errors import UsageError
from medmim.methods import build_method
from medmim.methods.volume_fusion import fusion_classes


def build(**options):
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 8))
    return build_method("volume_fusion", encoder=encoder, spatial_dims=2, cell=(4, 4), **options)


@pytest.mark.parametrize("space", [(64, 64), (32, 48, 32)])
def test_every_coefficient_occurs_and_a_part_stays_background(space):
    drawn = [fusion_classes(space, 4, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert set(torch.stack(drawn).unique().tolist()) == {0, 1, 2, 3, 4}
    assert all((one == 0).any() and (one > 0).any() for one in drawn)
    assert not torch.equal(drawn[0], drawn[1])


def test_the_network_sees_the_mixture_that_its_classes_describe():
    method, seen = build(), []
    method.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    foreground, background = torch.full((2, 1, 16, 16), 8.0), torch.full((2, 1, 16, 16), 4.0)
    step = method(torch.cat([foreground, background]), torch.rand(4, 4, 4) < 0.5)
    assert set(seen[0].unique().tolist()) <= {4.0, 5.0, 6.0, 7.0, 8.0}
    assert len(seen[0]) == 2
    assert 0 <= step.parts["accuracy"] <= 1


def test_zero_coefficients_are_rejected():
    with pytest.raises(UsageError, match=r"^method_options: expected coefficients of at least 1, got 0$"):
        build(coefficients=0)
