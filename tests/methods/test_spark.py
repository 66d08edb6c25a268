"""Shapes of the light decoder, and positions of predicted voxels."""

import copy

import numpy as np
import pytest
import torch
from naive_spark import Naive

from medmim.encoders import build_encoder, mask
from medmim.encoders.resnet import ResNetEncoder
from medmim.errors import ShapeError
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.methods.spark import LightDecoder, SparK


@pytest.mark.parametrize(
    ("dims", "strides", "space"),
    [
        (2, [(8, 8), (4, 4), (2, 2)], (16, 24)),
        (2, [(8, 4), (2, 4)], (8, 8)),
        (3, [(2, 4, 4), (1, 2, 2), (1, 1, 1)], (4, 8, 4)),
        (3, [(4, 4, 4)], (8, 4, 4)),
    ],
)
def test_predicts_every_voxel(dims, strides, space):
    widths = [8, 6, 4][: len(strides)]
    decoder = LightDecoder(spatial_dims=dims, strides=strides, widths=widths, out_channels=2)
    maps = [
        torch.randn(2, width, *[n // s for n, s in zip(space, stride, strict=True)])
        for width, stride in zip(widths, strides, strict=True)
    ]
    assert decoder(maps).shape == (2, 2, *space)


@pytest.mark.parametrize("stride", [(2, 2), (4, 2), (2, 3, 2)])
def test_each_map_voxel_predicts_its_block_of_voxels(stride):
    dims, grid = len(stride), (2, 3, 2)[: len(stride)]
    decoder = LightDecoder(spatial_dims=dims, strides=[stride], widths=[1], out_channels=1)
    torch.nn.init.ones_(decoder.head.linear.weight)
    torch.nn.init.zeros_(decoder.head.linear.bias)
    values = torch.arange(1.0, 1 + torch.tensor(grid).prod()).reshape(1, 1, *grid)
    expected = values
    for axis, step in enumerate(stride, start=2):
        expected = expected.repeat_interleave(step, dim=axis)
    assert torch.equal(decoder([values]), expected)


def test_neighbouring_voxels_come_from_their_own_channel():
    decoder = LightDecoder(spatial_dims=2, strides=[(2, 2)], widths=[1], out_channels=2)
    torch.nn.init.zeros_(decoder.head.linear.weight)
    decoder.head.linear.bias.data = torch.arange(8.0)
    picture = decoder([torch.zeros(1, 1, 1, 1)])
    assert picture.tolist() == [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_official_decoder_is_initialised_as_sparks(dims):
    torch.manual_seed(0)
    strides = [(4,) * dims, (2,) * dims, (1,) * dims]
    decoder = LightDecoder(
        spatial_dims=dims, strides=strides, widths=[32, 16, 8], out_channels=1, official=True
    )
    upwards, *_ = decoder.stages[0].block
    assert upwards.kernel_size == (4,) * dims
    fan_out = 32 * 4**dims  # of a transposed convolution, PyTorch counts the channels that come in
    assert upwards.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    convolutions = [layer for layer in decoder.modules() if type(layer).__name__ == f"Conv{dims}d"]
    assert len(convolutions) == 5
    for layer in convolutions[:3]:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
    for layer in (upwards, decoder.head.linear):
        assert not layer.bias.any()


CELL = 4


def build(dims, *, filters=(4, 6, 8), cell=CELL, channels=2, **options):
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=dims, in_channels=channels, filters=filters)
    return build_method("spark", encoder=encoder, spatial_dims=dims, cell=(cell,) * dims, **options)


def batch_for(dims, *, channels=2):
    generator = torch.Generator().manual_seed(0)
    grid = (3, 4, 2)[:dims]
    images = torch.randn(2, channels, *[CELL * n for n in grid], generator=generator) * 3 + 1
    return images, build_mask("random", ratio=0.6).sample(2, grid, generator=generator)


def cell_at(images, sample, place):
    """All channels' voxels of one cell, as one list."""
    window = tuple(slice(CELL * index, CELL * (index + 1)) for index in place)
    return images[(sample, slice(None), *window)].reshape(-1)


def naive_loss(prediction, images, hidden):
    """The mean over hidden cells of the mean squared error on pixels normalised cell by cell (unbiased)."""
    prediction, images = prediction.double().numpy(), images.double().numpy()
    errors = []
    for sample, *place in np.argwhere(hidden.numpy()):
        true = cell_at(images, sample, place)
        target = (true - true.mean()) / np.sqrt(true.var(ddof=1) + 1e-6)
        errors.append(((cell_at(prediction, sample, place) - target) ** 2).mean())
    return float(np.mean(errors))


@pytest.mark.parametrize("dims", [2, 3])
def test_loss_equals_the_formula(dims):
    method, (images, hidden) = build(dims), batch_for(dims)
    with torch.no_grad():
        for densify in method.densify:
            densify.norm.weight.uniform_(0.5, 2), densify.norm.bias.uniform_(-1, 1), densify.token.normal_()
        maps = method.encoder(mask(images, hidden))[::-1]
        naive = Naive(method.state_dict(), hidden, dims)
        used = enumerate(maps[: len(method.densify)])
        dense = [naive.densify(features.unpack().double(), f"densify.{i}") for i, features in used]
        # jaxtyping's Float admits float64: the same decoder in double precision is the reference
        prediction = copy.deepcopy(method.decoder).double()(dense)
        loss = method(images, hidden).loss.item()
    assert loss == pytest.approx(naive_loss(prediction, images, hidden), rel=1e-4)


class Fixed(LightDecoder):
    """A decoder that predicts what it was given."""

    def __init__(self, prediction):
        torch.nn.Module.__init__(self)
        self.prediction = prediction

    def forward(self, maps):
        return self.prediction


def with_prediction(method, prediction):
    return SparK(method.encoder, method.densify, Fixed(prediction), method.target)


def hidden_of(images, hidden):
    voxels = hidden
    for axis in range(1, hidden.dim()):
        voxels = voxels.repeat_interleave(CELL, dim=axis)
    return voxels.unsqueeze(1).expand_as(images)


@pytest.mark.parametrize("dims", [2, 3])
def test_loss_of_a_known_prediction(dims):
    method, (images, hidden) = build(dims), batch_for(dims)
    prediction = torch.randn_like(images)
    loss = with_prediction(method, prediction)(images, hidden).loss.item()
    assert loss == pytest.approx(naive_loss(prediction, images, hidden), rel=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_loss_ignores_visible_voxels_of_prediction_and_target(dims):
    method, (images, hidden) = build(dims), batch_for(dims)
    covered = hidden_of(images, hidden)
    prediction = torch.randn_like(images)
    loss = with_prediction(method, prediction)(images, hidden).loss
    elsewhere = torch.where(covered, prediction, 100 * torch.randn_like(prediction))
    assert torch.equal(with_prediction(method, elsewhere)(images, hidden).loss, loss)
    repainted = torch.where(covered, images, torch.randn_like(images))
    assert torch.equal(with_prediction(method, prediction)(repainted, hidden).loss, loss)
    prediction.requires_grad_()
    with_prediction(method, prediction)(images, hidden).loss.backward()
    assert not prediction.grad[~covered].any()
    assert prediction.grad[covered].all()


@pytest.mark.parametrize("dims", [2, 3])
def test_hidden_content_does_not_change_the_prediction(dims):
    method, (images, hidden) = build(dims), batch_for(dims)
    predictions = []
    method.decoder.register_forward_hook(lambda module, inputs, output: predictions.append(output))
    first = method(images, hidden).loss
    second = method(images + 9 * torch.rand_like(images) * hidden_of(images, hidden), hidden).loss
    assert torch.equal(*predictions)
    assert first != second


@pytest.mark.parametrize("dims", [2, 3])
def test_a_perfect_prediction_has_zero_loss_and_reconstructs_the_image(dims):
    method, (images, hidden) = build(dims), batch_for(dims)
    perfect = torch.empty_like(images)
    for sample, *place in np.argwhere(torch.ones_like(hidden).numpy()):
        window = (sample, slice(None), *[slice(CELL * i, CELL * (i + 1)) for i in place])
        true = images[window]
        perfect[window] = (true - true.mean()) / (true.var() + 1e-6).sqrt()
    step = with_prediction(method, perfect)(images, hidden)
    assert step.loss < 1e-10
    torch.testing.assert_close(step.pictures["reconstruction"], images, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_reconstruction_keeps_visible_voxels(dims):
    method, (images, hidden) = build(dims), batch_for(dims)
    picture = method(images, hidden).pictures["reconstruction"]
    covered = hidden_of(images, hidden)
    assert torch.equal(picture[~covered], images[~covered])
    assert not torch.equal(picture[covered], images[covered])


def test_a_loss_per_hidden_cell_not_per_sample_or_voxel():
    method, (images, hidden) = build(2), batch_for(2)
    prediction = torch.zeros_like(images)
    parts = [
        with_prediction(method, prediction[i : i + 1])(images[i : i + 1], hidden[i : i + 1]).loss
        for i in range(2)
    ]
    assert with_prediction(method, prediction)(images, hidden).loss.item() == pytest.approx(
        sum(part.item() for part in parts) / 2, rel=1e-6
    )  # every sample hides the same count


@pytest.mark.parametrize(
    ("cell", "nearest"), [((6, 8), "8,8"), ((2, 2), "4,4"), ((12, 9), "12,12"), ((5, 5), "8,8")]
)
def test_cells_that_do_not_match_the_strides_are_rejected(cell, nearest):
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 4, 4))
    message = (
        f"mask cell of {cell[0]}×{cell[1]} voxels: expected a multiple of the encoder's total stride 4×4; "
    )
    with pytest.raises(ShapeError, match=f"{message}use --cell {nearest}$"):
        build_method("spark", encoder=encoder, spatial_dims=2, cell=cell)


def test_cells_of_one_value_are_rejected_for_normalised_pixels():
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4,))
    with pytest.raises(ShapeError, match=r"mask cell of one voxel: expected at least 2 values"):
        build_method("spark", encoder=encoder, spatial_dims=2, cell=(1, 1))


@pytest.mark.parametrize(("finest", "widths"), [(1, [32, 16, 8]), (2, [32, 16]), (4, [32]), (64, [32])])
def test_the_decoder_stops_at_the_given_stride(finest, widths):
    method = build(2, finest_decoder_stride=finest, decoder_width=32)
    assert [densify.project.out_channels for densify in method.densify] == widths
    images, hidden = batch_for(2)
    step = method(images, hidden)
    assert step.pictures["reconstruction"].shape == images.shape
    step.loss.backward()


def test_densify_projects_one_by_one_at_the_coarsest_map_and_three_by_three_elsewhere():
    method = build(3, finest_decoder_stride=1)
    assert [densify.project.kernel_size for densify in method.densify] == [(1,) * 3, (3,) * 3, (3,) * 3]


def test_tokens_are_initialised_as_in_the_official_code():
    method = build(2, filters=(64, 128, 256))
    for densify in method.densify:
        assert densify.token.abs().max() <= 0.02
        assert densify.token.std().item() == pytest.approx(
            0.0108, rel=0.25
        )  # of a normal cut at one deviation


def test_anisotropic_cells_strides_and_images():
    torch.manual_seed(0)
    encoder = build_encoder(
        "dynunet", spatial_dims=3, in_channels=1, filters=(4, 4, 6), strides=(1, (1, 2, 2), 2)
    )
    method = build_method("spark", encoder=encoder, spatial_dims=3, cell=(2, 8, 4))
    hidden = build_mask("mesh", ratio=0.5).sample(1, (3, 2, 4), generator=torch.Generator().manual_seed(0))
    step = method(torch.randn(1, 1, 6, 16, 16), hidden)
    step.loss.backward()
    assert all(parameter.grad.any() for parameter in method.parameters())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_resnet_with_a_stride_of_four_predicts_all_voxels(dims):
    torch.manual_seed(0)
    encoder = ResNetEncoder(
        spatial_dims=dims,
        in_channels=1,
        block="basic",
        layers=(1, 1, 1, 1),
        widths=(2, 2, 2, 4),
        max_pool=True,
    )
    method = build_method("spark", encoder=encoder, spatial_dims=dims, cell=(32,) * dims, decoder_width=16)
    hidden = torch.zeros(2, *[2] * dims, dtype=torch.bool)
    hidden[:, 0] = True
    step = method(torch.randn(2, 1, *[64] * dims), hidden)
    step.loss.backward()
    assert step.loss.isfinite()


@pytest.mark.parametrize(("decoder", "norm"), [("official", "ChannelNorm"), ("light", "BatchNorm2d")])
def test_the_official_decoder_densifies_convnext_with_layer_norm(decoder, norm):
    encoder = build_encoder("convnext", spatial_dims=2, in_channels=1, widths=(4, 6), blocks=(1, 1))
    options = {"decoder": decoder, "decoder_width": 16}
    method = build_method("spark", encoder=encoder, spatial_dims=2, cell=encoder.total_stride, **options)
    assert {type(densify.norm).__name__ for densify in method.densify} == {norm}
    hidden = build_mask("random", ratio=0.5).sample(2, (3, 3), generator=torch.Generator().manual_seed(0))
    method(torch.randn(2, 1, *[3 * step for step in encoder.total_stride]), hidden).loss.backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


@pytest.mark.parametrize(
    ("decoder", "width", "kinds"), [("official", 64, "Identity"), ("official", 32, "Conv2d")]
)
def test_the_official_decoder_does_not_project_a_coarsest_map_of_its_own_width(decoder, width, kinds):
    encoder = build_encoder("convnext", spatial_dims=2, in_channels=1, widths=(16, 64), blocks=(1, 1))
    options = {"decoder": decoder, "decoder_width": width}
    method = build_method("spark", encoder=encoder, spatial_dims=2, cell=encoder.total_stride, **options)
    assert [type(densify.project).__name__ for densify in method.densify] == [kinds, "Conv2d"]
