"""Every operation on packed cells against the same on masked values; `Packed` as a tensor-like value."""

import copy
import gc
import inspect
import pickle
import weakref
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from monai.networks.layers.drop_path import DropPath
from monai.networks.nets.attentionunet import AttentionBlock
from torch import nn

from medmim.encoders import mask, pack
from medmim.errors import ShapeError
from medmim.masks import build_mask, hidden_voxels


def some(cell, grid, *, batch=3, channels=4, ratio=0.5, seed=0):
    """Images and a mask with another count in every sample."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(
        batch, channels, *[c * g for c, g in zip(cell, grid, strict=True)], generator=generator
    )
    hidden = torch.rand(batch, *grid, generator=generator) < ratio
    hidden.view(batch, -1)[:, 0] = False
    return images.double(), hidden


def agree(layer, images, hidden):
    """Compare values and gradients with the masked form, in float64."""
    results = []
    for hide in (pack, mask):
        layer.zero_grad(set_to_none=True)
        source = images.clone().requires_grad_()
        dense = layer(hide(source, hidden)).unpack()
        weights = torch.randn(dense.shape, generator=torch.Generator().manual_seed(1)).to(dense)
        (dense * weights).sum().backward()
        results.append([dense, source.grad, *[p.grad for p in layer.parameters()]])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


class WithItself(nn.Module):
    """Feed a layer of two inputs with one."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x, x)


CONVS = [
    # cell, kernel, stride, dilation, groups
    *product([(4, 4), (2, 6), (1, 1), (8, 8)], [1, 3, 5, 7], [1], [1, 2], [1, 2]),
    *product([(4, 4), (2, 2), (2, 4), (8, 4)], [1, 2, 3, 5, 7], [2], [1], [1, 4]),
    *product([(4, 2, 4), (2, 2, 2), (1, 1, 1), (8, 8, 8)], [1, 3, 5], [1], [1], [1, 4]),
    *product([(4, 2, 4), (2, 2, 2)], [1, 2, 3], [2], [1], [1, 2]),
    ((2, 4, 4), (1, 3, 3), (1, 2, 2), 1, 1),
    ((1, 1, 1), 3, 1, 2, 1),
    ((3, 6), 3, 3, 1, 1),
    ((4, 4), 4, 2, 1, 1),
    ((4, 4), 6, 2, 1, 1),
    ((2, 2, 4), 7, 1, 1, 1),
    ((4, 4, 2), 7, 1, 1, 4),
    ((2, 2, 2), 5, 1, 2, 1),
    ((4, 4, 2), 4, 2, 1, 2),
]


@pytest.mark.parametrize(("cell", "kernel", "stride", "dilation", "groups"), CONVS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(cell, kernel, stride, dilation, groups, bias):
    dims = len(cell)
    grid = (3, 4, 2)[:dims]
    widths = [k - 1 for k in ((kernel,) * dims if isinstance(kernel, int) else kernel)]
    steps = (stride,) * dims if isinstance(stride, int) else stride
    # the padding that keeps size / stride: half the window; where it overlaps by stride only, less
    padding = tuple(
        max(dilation * width - step + 2, 0) // 2 for width, step in zip(widths, steps, strict=True)
    )
    layer = (nn.Conv2d, nn.Conv3d)[dims - 2](
        4, 8, kernel, stride, padding, dilation=dilation, groups=groups, bias=bias
    ).double()
    agree(layer, *some(cell, grid))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_padding_same_is_wider_behind_for_even_kernels(kernel):
    agree(nn.Conv2d(4, 5, kernel, padding="same").double(), *some((3, 3), (3, 3)))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [(1, 2), (3, 1), (4, 4)])
def test_few_channels(dims, channels):
    images, hidden = some((4, 2, 2)[:dims], (2, 3, 2)[:dims], channels=channels[0])
    agree((nn.Conv2d, nn.Conv3d)[dims - 2](*channels, 3, padding=1).double(), images, hidden)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("cell", [2, 4, 8])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": 2, "ceil_mode": True},
        {"kernel_size": 5, "stride": 2, "padding": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["Max", "Avg"])
def test_pooling(kind, options, cell, dims):
    agree(getattr(nn, f"{kind}Pool{dims}d")(**options), *some((cell,) * dims, (3, 3, 3)[:dims]))


@pytest.mark.parametrize("extra", [{"count_include_pad": False}, {"divisor_override": 5}], ids=str)
def test_average_pooling_uses_pytorchs_divisor(extra):
    agree(nn.AvgPool2d(3, 2, 1, **extra), *some((4, 2), (3, 3)))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("cell", [1, 2, 4])
@pytest.mark.parametrize(
    "norm",
    [
        lambda dims: (nn.BatchNorm2d, nn.BatchNorm3d)[dims - 2](4),
        lambda dims: (nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 2](4),
        lambda dims: (nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 2](4, affine=True, eps=1e-3),
        lambda dims: nn.GroupNorm(1, 4),
        lambda dims: nn.GroupNorm(2, 4),
        lambda dims: nn.GroupNorm(4, 4),
        lambda dims: nn.GroupNorm(2, 4, affine=False),
        lambda dims: nn.SyncBatchNorm(4),
    ],
)
def test_norms(norm, cell, dims):
    layer = norm(dims).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    agree(layer, *some((cell,) * dims, (3, 2, 2)[:dims], ratio=0.3))


def test_instance_norm_of_one_visible_voxel_is_the_bias():
    images, hidden = some((1, 1), (2, 2), ratio=2.0)
    layer = nn.InstanceNorm2d(4, affine=True).double()
    nn.init.normal_(layer.bias)
    agree(layer, images, hidden)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.LeakyReLU(inplace=True),
        nn.ReLU6(),
        nn.SiLU(),
        nn.GELU(),
        nn.ELU(),
        nn.Mish(),
        nn.Hardswish(),
        nn.PReLU(4),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.Identity(),
        nn.Dropout(0.0),
        nn.Dropout2d(0.5).eval(),
    ],
    ids=repr,
)
def test_activations(layer):
    agree(
        nn.Sequential(nn.Conv2d(4, 4, 1), layer, nn.Conv2d(4, 4, 3, padding=1)).double(),
        *some((4, 4), (2, 3)),
    )


@pytest.fixture
def images():
    return some((4, 4), (2, 3))[0]


@pytest.fixture
def hidden():
    return some((4, 4), (2, 3))[1]


@pytest.fixture
def value(images, hidden):
    return pack(images, hidden)


def masked_as(value, dense):
    """The dense tensor with zeros where `value` hides."""
    return mask(dense, value.layout.hidden).unpack()


@pytest.mark.parametrize(
    "shape",
    [(), (1,), (1, 4, 1, 1), (4, 1, 1), (3, 1, 1, 1), (3, 4, 1, 1), (3, 1, 8, 12), (8, 12), (1, 1, 8, 12)],
)
def test_combines_with_numbers_parameters_gates_and_maps(shape, value):
    other = torch.rand(shape, dtype=torch.float64) + 0.5
    dense = value.unpack()
    for ours, expected in [
        (value * other, dense * other),
        (other * value, dense * other),
        (value + other, dense + other),
        (other + value, dense + other),
        (value - other, dense - other),
        (value / other, dense / other),
        (torch.mul(value, other), dense * other),
        (value.add(other), dense + other),
    ]:
        torch.testing.assert_close(ours.unpack(), masked_as(value, expected))
    torch.testing.assert_close((2 - value).unpack(), masked_as(value, 2 - dense))
    torch.testing.assert_close((-value).unpack(), -dense)


def test_a_gate_of_one_channel_scales_all(value):
    gate = torch.sigmoid(nn.Conv2d(4, 1, 1).double()(value))
    torch.testing.assert_close((value * gate).unpack(), value.unpack() * gate.unpack())


def test_in_place_operators_make_a_new_value(value):
    before = value.unpack().clone()
    other = value
    other += value
    other *= 3.0
    other -= value
    other /= 2
    assert torch.equal(value.unpack(), before)
    torch.testing.assert_close(other.unpack(), before * 2.5)


def test_concatenates_and_divides_along_channels(value):
    for joined in (
        torch.cat([value, value], 1),
        torch.cat([value, value], dim=-3),
        torch.concat([value, value], 1),
    ):
        assert torch.equal(joined.unpack(), torch.cat([value.unpack()] * 2, 1))
    for parts in (torch.chunk(value, 2, dim=1), value.chunk(2, dim=1), value.split([2, 2], dim=1)):
        assert torch.equal(torch.cat(parts, 1).unpack(), value.unpack())
        assert parts[0].shape[1] == 2
        agreed = nn.Conv2d(2, 2, 3, padding=1).double()
        torch.testing.assert_close(
            agreed(parts[1]).unpack(), masked_as(value, agreed(value.unpack()[:, 2:])), rtol=1e-9, atol=1e-9
        )


def test_means_over_space_count_visible_voxels_only(value, images):
    seen = mask(images, value.layout.hidden).visible.expand_as(images)
    expected = (images * seen).sum((2, 3)) / seen.sum((2, 3))
    torch.testing.assert_close(value.mean((2, 3)), expected)
    torch.testing.assert_close(value.mean((-2, -1), keepdim=True), expected[..., None, None])
    torch.testing.assert_close(nn.AdaptiveAvgPool2d(1)(value), expected[..., None, None])


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_last_layers(dims):
    images, hidden = some((2, 4, 2)[:dims], (2, 3, 2)[:dims])
    value = pack(images, hidden)
    last, first = (0, *range(2, dims + 2), 1), (0, dims + 1, *range(1, dims + 1))
    layer = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4)).double()
    expected = layer(images.permute(last)).permute(first)
    for there, back in (
        (lambda x: x.permute(*last), lambda x: x.permute(*first)),
        (lambda x: torch.permute(x, last), lambda x: x.permute(first)),
        (lambda x: x.movedim(1, -1), lambda x: torch.movedim(x, -1, 1)),
    ):
        moved = there(value)
        assert moved.shape == images.permute(last).shape
        result = back(layer(moved).contiguous())
        torch.testing.assert_close(result.unpack(), masked_as(value, expected))
    scaled = value.movedim(1, -1) * torch.arange(4.0).double()
    torch.testing.assert_close(scaled.unpack(), value.unpack().movedim(1, -1) * torch.arange(4.0))
    assert value.permute(*range(dims + 2)) is value


def test_dropout_of_channels_drops_them_in_all_cells_of_a_sample(value):
    torch.manual_seed(0)
    dropped = nn.Dropout2d(0.5)(value + 10).unpack()
    seen = mask(torch.ones_like(dropped), value.layout.hidden).unpack().bool()
    for sample, channel in product(range(3), range(4)):
        voxels = dropped[sample, channel][seen[sample, channel]]
        assert (voxels == 0).all() or torch.equal(
            voxels, 2 * (value + 10).unpack()[sample, channel][seen[sample, channel]]
        )
    assert 0 < (dropped[seen] == 0).double().mean() < 1


@pytest.mark.parametrize("dims", [2, 3])
def test_dropout_drops_visible_voxels_and_scales_the_rest(dims):
    images, hidden = some((4, 4, 4)[:dims], (3, 2, 2)[:dims])
    torch.manual_seed(0)
    before, after = (images + 10), nn.Dropout(0.25)(pack(images + 10, hidden)).unpack()
    seen = mask(torch.ones_like(before), hidden).unpack().bool()
    assert not after[~seen].any()
    kept = seen & (after != 0)
    assert 0.7 < kept.sum() / seen.sum() < 0.8
    torch.testing.assert_close(after[kept], before[kept] / 0.75)


@pytest.mark.parametrize("dims", [2, 3])
def test_monais_attention_gate_equals_the_masked_one(dims):
    gate = AttentionBlock(dims, f_int=3, f_g=4, f_l=4).double()
    agree(WithItself(gate), *some((4, 2, 4)[:dims], (2, 3, 2)[:dims]))


@pytest.mark.parametrize("dims", [2, 3])
def test_monais_squeeze_and_excitation_weighs_by_visible_voxels(dims):
    images, hidden = some((4, 2, 4)[:dims], (2, 3, 2)[:dims])
    layer = ChannelSELayer(dims, 4).double()
    dense = layer(images)
    torch.testing.assert_close(layer(pack(images, torch.zeros_like(hidden))).unpack(), dense)
    value = pack(images, hidden)
    weights = layer.fc(value.mean(tuple(range(2, dims + 2))))
    expected = value.unpack() * weights.reshape(*weights.shape, *[1] * dims)
    torch.testing.assert_close(layer(value).unpack(), expected)


def test_stochastic_depth_skips_whole_samples():
    images, hidden = some((2, 2), (2, 2), batch=64)
    torch.manual_seed(0)
    kept = DropPath(0.5)(pack(images + 10, hidden)).unpack()
    skipped = (kept == 0).flatten(1).all(1)
    assert 10 < skipped.sum() < 54
    torch.testing.assert_close(kept[~skipped], 2 * pack(images + 10, hidden).unpack()[~skipped])


def test_mixing_masks_is_rejected(images, hidden, value):
    other = pack(images, hidden.clone())
    for mixed in (
        lambda: value + other,
        lambda: torch.cat([value, other], 1),
        lambda: torch.cat([value, images], 1),
    ):
        with pytest.raises(ShapeError, match="expected values of one forward"):
            mixed()


@pytest.mark.parametrize(
    ("message", "operation"),
    [
        ("'softmax' over axis 2 has no packed form", lambda x: F.softmax(x, 2)),
        ("'max_pool2d_with_indices' has no packed form", nn.MaxPool2d(2, return_indices=True)),
        ("'flatten' has no packed form", lambda x: x.flatten(1)),
        ("'view' has no packed form", lambda x: x.view(1, -1)),
        ("'is_contiguous' has no packed form", lambda x: x.is_contiguous()),
        (r"'permute' to \(0, 1, 3, 2\) has no packed form", lambda x: x.permute(0, 1, 3, 2)),
        (r"'mean' over axes \(1,\) has no packed form", lambda x: x.mean(1)),
        (r"'adaptive_avg_pool2d' to \(2,\) has no packed form", nn.AdaptiveAvgPool2d(2)),
        (r"'layer_norm' over \(4, 8, 12\) of packed cells", nn.LayerNorm([4, 8, 12]).double()),
        ("'linear' on packed cells with channels first", nn.Linear(4, 4).double()),
    ],
)
def test_an_operation_without_a_packed_form_is_rejected_by_name_with_a_remedy(message, operation, value):
    with pytest.raises(ShapeError, match=f"^{message}.*use an encoder without it$"):
        operation(value)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("interpolate", lambda x: F.interpolate(x, scale_factor=2.0)),
        ("interpolate", nn.Upsample(scale_factor=0.5)),
        ("conv_transpose2d", nn.ConvTranspose2d(4, 4, 2, 2).double()),
        ("pad", nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect").double()),
        ("pixel_shuffle", nn.PixelShuffle(2)),
    ],
)
def test_the_message_suggests_compute_masked_where_it_helps(name, operation, images, hidden):
    with pytest.raises(
        ShapeError, match=f"^'{name}' has no packed form: use an encoder without it, or --compute masked$"
    ):
        operation(pack(images, hidden))
    result = operation(mask(images, hidden))
    assert torch.equal(result.unpack(), result.unpack() * result.visible)
    assert result.unpack().any()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            nn.Conv2d(4, 4, 3, stride=3),
            "'conv2d' with stride 3×3 on packed cells of 4×4 voxels: expected a stride that",
        ),
        (nn.MaxPool2d(8), "'max_pool2d' with stride 8×8 on packed cells of 4×4 voxels"),
        (
            nn.Conv2d(4, 4, 3),
            "'conv2d' with kernel 3×3, stride 1×1 maps 8×12 voxels to 6×10: packed cells need 8×12",
        ),
        (
            nn.AvgPool2d(3, 2, 1, ceil_mode=True),
            "'avg_pool2d' with kernel 3×3, stride 2×2 maps 8×12 voxels to 5×7",
        ),
    ],
)
def test_windows_that_do_not_fit_the_cells_are_rejected(layer, message, value):
    with pytest.raises(ShapeError, match=f"^{message}"):
        layer.double()(value)


@pytest.mark.parametrize(
    "operation",
    [
        nn.Conv2d(4, 4, 3, padding=1).double(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4).double(),
        nn.GroupNorm(2, 4).double(),
        nn.PReLU(4).double(),
        nn.Dropout2d(),
        lambda x: x.mean((1, 2)),
    ],
)
def test_channels_first_operations_reject_channels_last(operation, value):
    with pytest.raises(ShapeError, match="channels-last packed cells: permute channels back"):
        operation(value.movedim(1, -1))


def test_mixing_channel_orders_is_rejected(value):
    moved = value.movedim(1, -1)
    with pytest.raises(ShapeError, match="channels first and channels last"):
        value + moved
    with pytest.raises(ShapeError, match=r"concatenated along channels \(dim=3\), got dim=1"):
        torch.cat([moved, moved], 1)
    with pytest.raises(ShapeError, match=r"divided along channels \(dim=1\), got dim=0"):
        value.chunk(2)


def test_instance_norm_with_running_statistics_is_rejected(value):
    with pytest.raises(
        ShapeError, match="running statistics has no packed form: use track_running_stats=False"
    ):
        nn.InstanceNorm2d(4, track_running_stats=True).double()(value)


def test_batch_norm_over_one_voxel_is_rejected():
    lonely = pack(torch.ones(1, 3, 2, 2), torch.tensor([[[True, True], [True, False]]]))
    with pytest.raises(ShapeError, match=r"batch norm over 1 visible voxel .* use a larger --batch-size"):
        nn.BatchNorm2d(3)(lonely)
    nn.BatchNorm2d(3).eval()(lonely)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 3, 3), "8×12 voxels does not divide into a grid of 3×3 cells"),
        ((3, 2, 2, 2), "8×12 voxels does not divide into a grid of 2×2×2 cells"),
    ],
)
def test_masks_that_do_not_divide_the_images_are_rejected(shape, message, images):
    with pytest.raises(ShapeError, match=message):
        pack(images, torch.zeros(shape, dtype=torch.bool))


def test_one_mask_for_several_images_is_rejected(images, hidden):
    bare = inspect.unwrap(pack)  # outside the tests no annotation stands before it
    with pytest.raises(ShapeError, match="expected one mask per sample, got 1 for 3 images"):
        bare(images, hidden[:1])


def test_samples_without_visible_cells_are_rejected(images, hidden):
    hidden[1] = True
    with pytest.raises(ShapeError, match="expected visible cells in every sample, got one all hidden: lower"):
        pack(images, hidden)


@pytest.mark.parametrize("fill", [0.0, -2.5, 7.0])
@pytest.mark.parametrize("dims", [2, 3])
def test_unpack_inverts_pack_on_visible_voxels(fill, dims):
    images, hidden = some((2, 4, 3)[:dims], (3, 2, 2)[:dims])
    dense = pack(images, hidden).unpack(fill)
    seen = mask(images, hidden).visible.bool().expand_as(dense)
    assert torch.equal(dense[seen], images[seen])
    assert (dense[~seen] == fill).all()


def test_shape_dtype_and_device_are_those_of_the_dense_tensor(value, images):
    assert value.shape == images.shape == value.size()
    assert (value.size(-1), value.dim(), value.ndim) == (12, 4, 4)
    assert (value.dtype, value.device) == (images.dtype, images.device)
    assert not value.requires_grad
    assert value.float().dtype == value.to(torch.float32).dtype == torch.float32
    assert torch.equal(value.clone().detach().contiguous().unpack(), value.unpack())
    assert value.new_zeros((2, 3)).shape == (2, 3)


def test_unknown_attributes_raise_attribute_error(value):
    with pytest.raises(AttributeError, match="'Packed' has no attribute 'nonsense'"):
        _ = value.nonsense
    assert torch.equal(copy.deepcopy(value).unpack(), value.unpack())
    assert torch.equal(pickle.loads(pickle.dumps(value)).unpack(), value.unpack())


def test_images_are_not_modified(images, hidden):
    before = images.clone()
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.LeakyReLU(inplace=True)).double()
    net(pack(images, hidden))
    assert torch.equal(images, before)


def test_an_activation_in_place_may_follow_any_layer():
    layers = [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.GroupNorm(4, 4), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3, 2, 1)]
    agree(nn.Sequential(*layers).double(), *some((4, 4), (2, 3)))


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)]
)
def test_bfloat16_stays_bfloat16(layer, images, hidden):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = layer(pack(images.bfloat16(), hidden))
    assert result.dtype == torch.bfloat16
    reference = layer(mask(images.bfloat16().float(), hidden)).unpack()
    torch.testing.assert_close(result.unpack().float(), reference, rtol=2e-2, atol=3e-2)


def test_tables_are_cached_in_the_layout_and_freed_with_it(images, hidden):
    net = nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)]).double()
    value = pack(images, hidden)
    loss = net(value).unpack().sum()
    tables = dict(value.layout._tables)
    assert len(tables) == 1
    loss.backward()
    assert value.layout._tables.keys() == tables.keys()  # a 3×3 window and its transpose read the same halo
    table, layout = weakref.ref(next(iter(tables.values()))), weakref.ref(value.layout)
    del value, tables, loss
    gc.collect()
    assert table() is None
    assert layout() is None


def test_results_do_not_depend_on_threads(images, hidden):
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, 2, 1), nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 8, 3, padding=1)
    ).double()

    def gradients():
        net.zero_grad(set_to_none=True)
        net(pack(images, hidden)).unpack().square().sum().backward()
        return [parameter.grad for parameter in net.parameters()]

    first = gradients()
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))


@pytest.mark.parametrize("dims", [2, 3])
def test_powers_and_channel_slices_equal_the_masked_ones(dims):
    images, hidden = torch.rand(3, 4, *[8] * dims) + 0.5, masks(dims)
    packed, masked = pack(images, hidden), mask(images, hidden)
    torch.testing.assert_close((packed**2).unpack(), (masked**2).unpack())
    torch.testing.assert_close(packed[:, 1:3].unpack(), masked.unpack()[:, 1:3])
    last = packed.movedim(1, -1)[..., ::2]
    torch.testing.assert_close(last.unpack(), masked.unpack().movedim(1, -1)[..., ::2])
    assert not packed.data.requires_grad
    assert len(packed) == 3


@pytest.mark.parametrize("dims", [2, 3])
def test_softmax_rms_norm_and_spatial_norms_use_visible_voxels(dims):
    images, hidden = torch.randn(3, 4, *[8] * dims), masks(dims)
    visible, packed = ~hidden_voxels(hidden, images.shape[2:]), pack(images, hidden)
    axes = tuple(range(2, dims + 2))
    torch.testing.assert_close(packed.softmax(1).unpack(), images.softmax(dim=1) * visible)
    norms = (images * visible).flatten(2).norm(dim=2)
    torch.testing.assert_close(torch.norm(packed, p=2, dim=axes), norms)
    weight = torch.rand(4)
    normed = F.rms_norm(packed.movedim(1, -1), (4,), weight).movedim(-1, 1)
    torch.testing.assert_close(
        normed.unpack(), F.rms_norm(images.movedim(1, -1), (4,), weight).movedim(-1, 1) * visible
    )


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: x[0], "indexing"),
        (lambda x: x[:, :, 1:], "indexing"),
        (lambda x: x.softmax(2), "softmax"),
        (lambda x: torch.norm(x, p=1, dim=(2, 3)), "norm"),
        (lambda x: F.pad(x, (1, 1)), "pad"),
        (lambda x: F.pixel_shuffle(x, 2), "pixel_shuffle"),
        (lambda x: torch.flatten(x, 2), "flatten"),
        (lambda x: x.reshape(3, -1), "reshape"),
        (lambda x: F.adaptive_max_pool2d(x, 1), "adaptive_max_pool2d"),
        (np.asarray, "numpy.asarray"),
    ],
)
def test_other_indices_norms_and_reshapes_are_rejected_by_name(call, name):
    with pytest.raises(ShapeError, match=f"'{name}'.* has no packed form"):
        call(pack(torch.randn(3, 4, 8, 8), masks(2)))


def masks(dims):
    return build_mask("random", ratio=0.5).sample(3, (4,) * dims, generator=torch.Generator().manual_seed(0))
