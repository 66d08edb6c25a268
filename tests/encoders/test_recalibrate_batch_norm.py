import pytest
import torch
from torch import nn

from medmim.encoders import build_encoder, pack
from medmim.encoders.recalibrate_batch_norm import batch_norms, recalibrate_batch_norms
from medmim.masks import build_mask


def small(dims):
    torch.manual_seed(0)
    return build_encoder(
        "resnet18", spatial_dims=dims, in_channels=1, widths=(4, 4, 6, 8), stem_stride=1
    ).train()


def batches(dims, count=3):
    return [torch.randn(4, 1, *(16,) * dims) + 0.5 * number for number in range(count)]


@pytest.mark.parametrize("dims", [2, 3])
def test_recalibration_gives_statistics_of_whole_images(dims):
    net, images = small(dims), batches(dims)
    hidden = build_mask("random", ratio=0.5).sample(
        4, (2,) * dims, generator=torch.Generator().manual_seed(0)
    )
    net(pack(images[0], hidden))
    recalibrate_batch_norms(net, images)
    seen = [net.stem[0](x) for x in images]
    axes = (0, *range(2, dims + 2))
    first = batch_norms(net)[0]
    torch.testing.assert_close(first.running_mean, torch.stack([x.mean(axes) for x in seen]).mean(0))
    torch.testing.assert_close(first.running_var, torch.stack([x.var(axes) for x in seen]).mean(0))


def test_nothing_else_changes():
    net = nn.Sequential(small(2), nn.Identity())
    net[0].stages[0].eval()
    momenta = [norm.momentum for norm in batch_norms(net)]
    modes = [module.training for module in net.modules()]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    recalibrate_batch_norms(net, batches(2))
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.endswith(("running_mean", "running_var", "num_batches_tracked")) for key in changed)
    assert [norm.momentum for norm in batch_norms(net)] == momenta
    assert [module.training for module in net.modules()] == modes


def test_dropout_is_inactive_during_recalibration():
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1)).train()
    images = torch.ones(2, 1, 4, 4) + torch.arange(4.0)
    recalibrate_batch_norms(net, [images])
    assert net[1].running_mean.item() == pytest.approx(2.5)
    assert net[0].training


def test_a_network_without_batch_norm_has_none():
    assert not batch_norms(build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 4)))
