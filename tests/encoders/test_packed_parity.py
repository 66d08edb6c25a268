"""Packed cells against the masked-dense reference: values and gradients of every network, mask and cell."""

import copy

import pytest
import tiny
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from medmim.encoders import build_encoder, mask, pack
from medmim.encoders.resnet import ResNetEncoder
from medmim.masks import MASKS, build_mask

SMALL_RESNET = {"layers": (1, 2, 1, 1), "widths": (2, 3, 3, 4), "stem_stride": 1}
# small enough for float64, with every kind of layer of the full network
NETS = {
    "resnet18": lambda dims: ResNetEncoder(block="basic", **SMALL_RESNET, **inputs(dims)),
    "resnet18 pooled": lambda dims: ResNetEncoder(
        block="basic", max_pool=True, **SMALL_RESNET, **inputs(dims)
    ),
    "resnet50": lambda dims: ResNetEncoder(block="bottleneck", **SMALL_RESNET, **inputs(dims)),
    "dynunet": lambda dims: build_encoder("dynunet", filters=(3, 4, 6), **inputs(dims)),
    "segresnet": lambda dims: build_encoder("segresnet", width=4, blocks=(1, 1, 2), groups=2, **inputs(dims)),
    "convnext": lambda dims: build_encoder("convnext", widths=(3, 4, 6), blocks=(1, 2, 1), **inputs(dims)),
}
every_net = pytest.mark.parametrize("name", sorted(NETS))
both_dims = pytest.mark.parametrize("dims", [2, 3])
CHANNELS = 2


def inputs(dims):
    return {"spatial_dims": dims, "in_channels": CHANNELS}


def build(name, dims, *, dtype=torch.float64, spread=0.5):
    torch.manual_seed(0)
    net = NETS[name](dims)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # norms and layer scales that a mistake cannot hide behind
        for parameter in net.parameters():
            if parameter.dim() == 1 or parameter[0].numel() == 1:
                parameter.copy_(1 + spread * torch.randn(parameter.shape, generator=generator))
    return net.to(dtype).train()


def batch_for(net, dims, *, rule="random", times=1, ratio=0.5, batch=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    grid = (3, 2, 2)[:dims] if max(net.total_stride) >= 8 else (4, 5, 3)[:dims]
    if max(net.total_stride) * times >= 16:  # large cells: a third axis makes them costly
        grid = ((3, 2, 1) if max(net.total_stride) * times == 16 else (2, 2, 1))[:dims]
    space = [cells * stride * times for cells, stride in zip(grid, net.total_stride, strict=True)]
    images = torch.randn(batch, CHANNELS, *space, generator=generator).to(dtype) + 0.5
    return images, build_mask(rule, ratio=ratio).sample(batch, grid, generator=generator)


def run(net, hide, images, hidden):
    """Return the maps, and the gradients of parameters and images of a loss that weighs every voxel."""
    net.zero_grad(set_to_none=True)
    images = images.clone().requires_grad_()
    maps = [item.unpack() for item in net(hide(images, hidden))]
    generator = torch.Generator().manual_seed(9)
    loss = sum((item * torch.randn(item.shape, generator=generator).to(item)).mean() for item in maps)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    return maps, {**gradients, "images": images.grad}


def errors(found, expected):
    """Return the largest relative error (Euclidean norm) of the maps, and of the gradients."""
    (maps, gradients), (true_maps, true_gradients) = found, expected
    # a bias before a norm has no gradient but noise: its error is relative to the largest gradient
    least = 1e-2 * max(gradient.norm() for gradient in true_gradients.values())
    return (
        max(((a - b).norm() / b.norm()).item() for a, b in zip(maps, true_maps, strict=True)),
        max(((gradients[k] - b).norm() / max(b.norm(), least)).item() for k, b in true_gradients.items()),
    )


def compare(net, images, hidden, *, tolerance):
    """Compare the packed network with the masked-dense one in float64.

    In float32 a deep network's gradients are no nearer to those in float64, masked or dense: roundings
    move voxels over the kink of a ReLU. Packed cells may err three times as much as the masked network.
    """
    expected = run(copy.deepcopy(net).double(), mask, images.double(), hidden)
    found = run(net, pack, images, hidden)
    assert [item.shape for item in found[0]] == [item.shape for item in expected[0]]
    ours = errors(found, expected)
    limits = [tolerance] * 2
    if images.dtype == torch.float32:
        limits = [max(tolerance, 3 * own) for own in errors(run(net, mask, images, hidden), expected)]
    assert all(error < limit for error, limit in zip(ours, limits, strict=True)), (ours, limits)


@every_net
@both_dims
@pytest.mark.parametrize("times", [1, 2])
def test_float64_equals_the_masked_network(name, dims, times):
    net = build(name, dims)
    compare(net, *batch_for(net, dims, times=times), tolerance=1e-10)


# every mask meets every third network; the contracts of masks and of encoders cover each alone
@pytest.mark.parametrize(
    ("name", "rule"),
    [(name, rule) for number, name in enumerate(sorted(NETS)) for rule in sorted(MASKS)[number % 3 :: 3]],
)
@both_dims
def test_float32_equals_the_masked_network_under_every_mask(name, dims, rule):
    net = build(name, dims, dtype=torch.float32, spread=0.1)
    compare(net, *batch_for(net, dims, rule=rule, dtype=torch.float32), tolerance=1e-4)


@every_net
@both_dims
def test_samples_may_hide_different_counts(name, dims):
    net = build(name, dims)
    images, hidden = batch_for(net, dims, batch=3)
    hidden[0], hidden[1] = False, True
    hidden[1].view(-1)[2] = False
    compare(net, images, hidden, tolerance=1e-10)


@every_net
@both_dims
def test_hidden_voxels_do_not_change_the_result_exactly(name, dims):
    net = build(name, dims, dtype=torch.float32)
    images, hidden = batch_for(net, dims, dtype=torch.float32)
    covered = (mask(images, hidden).visible == 0).expand_as(images)
    disturbed = torch.where(covered, 1e9 * torch.randn_like(images), images)
    for first, second in zip(*(run(net, pack, x, hidden) for x in (images, disturbed)), strict=True):
        pairs = (
            zip(first.values(), second.values(), strict=True)
            if isinstance(first, dict)
            else zip(first, second, strict=False)
        )
        assert all(torch.equal(a, b) for a, b in pairs)


@every_net
def test_evaluation_mode_equals_the_masked_network(name):
    net = build(name, 2)
    images, hidden = batch_for(net, 2)
    net(mask(images, hidden))  # running statistics of something
    net.eval()
    with torch.no_grad():
        for ours, theirs in zip(net(pack(images, hidden)), net(mask(images, hidden)), strict=True):
            torch.testing.assert_close(ours.unpack(), theirs.unpack(), rtol=1e-10, atol=1e-10)


@every_net
def test_running_statistics_equal_those_of_the_masked_network(name):
    nets = build(name, 2), build(name, 2)
    images, hidden = batch_for(nets[0], 2)
    nets[0](pack(images, hidden)), nets[1](mask(images, hidden))
    for (key, ours), theirs in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10, msg=lambda m, k=key: f"{k}: {m}")


@every_net
@both_dims
def test_the_state_dict_is_that_of_the_network_itself(name, dims):
    """Nothing is wrapped or copied: what packed training leaves is loaded and run densely as it is."""
    net, dense = build(name, dims), build(name, dims)
    before = {key: value.shape for key, value in net.state_dict().items()}
    images, hidden = batch_for(net, dims)
    sum(item.unpack().square().mean() for item in net(pack(images, hidden))).backward()
    assert {key: value.shape for key, value in net.state_dict().items()} == before
    dense.load_state_dict(net.state_dict(), strict=True)
    for ours, theirs in zip(net.eval()(images), dense.eval()(images), strict=True):
        assert torch.equal(ours, theirs)


@every_net
@both_dims
def test_all_visible_equals_the_network_without_a_mask(name, dims):
    net = build(name, dims)
    images, hidden = batch_for(net, dims)
    for ours, dense in zip(net(pack(images, torch.zeros_like(hidden))), net(images), strict=True):
        torch.testing.assert_close(ours.unpack(), dense, rtol=1e-9, atol=1e-10)


@every_net
@both_dims
def test_two_masks_before_one_backward_under_checkpointing_are_exact(name, dims):
    net = build(name, dims)
    batches = [batch_for(net, dims, seed=seed) for seed in (0, 1)]

    def gradients(*chosen, recompute):
        def loss_of(images, hidden):
            return sum(item.unpack().square().mean() for item in net(pack(images, hidden)))

        net.zero_grad(set_to_none=True)
        losses = [
            checkpoint(loss_of, *batch, use_reentrant=False) if recompute else loss_of(*batch)
            for batch in chosen
        ]
        sum(losses).backward()
        return [parameter.grad for parameter in net.parameters()]

    apart = [gradients(batch, recompute=False) for batch in batches]
    together = gradients(*batches, recompute=True)
    for both, first, second in zip(together, *apart, strict=True):
        torch.testing.assert_close(both, first + second, rtol=1e-9, atol=1e-12)


@both_dims
def test_packed_values_pass_through_activation_checkpointing(dims):
    net = build("dynunet", dims)
    images, hidden = batch_for(net, dims)

    def gradients(stage):
        net.zero_grad(set_to_none=True)
        features, loss = pack(images, hidden), 0
        for module in net.stages:
            features = stage(module, features)
            loss = loss + features.unpack().square().mean()
        loss.backward()
        return [parameter.grad for parameter in net.parameters()]

    recomputed = gradients(lambda module, x: checkpoint(module, x, use_reentrant=False))
    for ours, plain in zip(recomputed, gradients(lambda module, x: module(x)), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-14)


@every_net
@both_dims
def test_bf16_autocast_stays_near_fp32_and_trains(name, dims):
    net = build(name, dims, dtype=torch.float32)
    images, hidden = batch_for(net, dims, dtype=torch.float32)

    def low(hide):
        return [item.unpack().float() for item in net(hide(images, hidden))]

    errors = []
    for hide in (pack, mask):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = low(hide)
        errors.append([((a - b).norm() / b.norm()).item() for a, b in zip(maps, low(hide), strict=True)])
    assert all(packed < 2 * masked + 0.02 for packed, masked in zip(*errors, strict=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sum(item.unpack().float().square().mean() for item in net(pack(images, hidden)))
    loss.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", tiny.ON_VOXELS)
def test_the_full_network_of_the_table_equals_the_masked_one(name):
    torch.manual_seed(0)
    net = build_encoder(name, **inputs(2))
    keys = list(net.state_dict())
    compare(net, *batch_for(net, 2, times=2, batch=4, dtype=torch.float32), tolerance=1e-4)
    assert list(net.state_dict()) == keys
    build_encoder(name, **inputs(2)).load_state_dict(net.state_dict())


def test_a_network_of_the_users_own_with_attention_gates_and_concatenation():
    class Gated(nn.Module):
        """Squeeze-and-excitation, a spatial gate, concatenation, a residual and channels-last layers."""

        def __init__(self):
            super().__init__()
            self.conv, self.gate = nn.Conv2d(CHANNELS, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
            self.fc, self.norm = nn.Linear(4, 4), nn.LayerNorm(8)
            self.mlp = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 8))
            self.down = nn.Conv2d(8, 5, 3, 2, 1)

        def forward(self, x):
            x = torch.relu(self.conv(x))
            spatial = torch.sigmoid(self.gate(x))
            weights = torch.sigmoid(self.fc(nn.AdaptiveAvgPool2d(1)(x).flatten(1)))
            x = torch.cat([x * spatial, x * weights[:, :, None, None]], dim=1)
            x = x + self.mlp(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
            return [x, self.down(x)]

    torch.manual_seed(0)
    net = Gated().double()
    images = torch.randn(2, CHANNELS, 8, 8, dtype=torch.float64)
    hidden = torch.zeros(2, 2, 2, dtype=torch.bool)
    for ours, dense in zip(net(pack(images, hidden)), net(images), strict=True):
        torch.testing.assert_close(ours.unpack(), dense)
    hidden[0, 0, 0] = hidden[1, 1, 0] = True
    loss = sum(item.unpack().square().mean() for item in net(pack(images, hidden)))
    loss.backward()
    assert all(parameter.grad.any() for parameter in net.parameters())
