"""The vision transformer: encoding of selected patches, feature maps, options."""

import pytest
import torch

from medmim.encoders.patch_tokens import as_sequence, select_patches
from medmim.encoders.vit import ViTEncoder
from medmim.errors import ShapeError, UsageError

both_dims = pytest.mark.parametrize("dims", [2, 3])
with_and_without_class = pytest.mark.parametrize("class_token", [False, True])


def build(dims=2, **options):
    torch.manual_seed(0)
    words = {"patch": 2, "width": 24, "depth": 5, "heads": 2, **options}
    return ViTEncoder(spatial_dims=dims, in_channels=1, **words)


def images_for(dims, batch=2):
    return torch.randn(batch, 1, *(6, 8, 4)[:dims], generator=torch.Generator().manual_seed(0))


@both_dims
@with_and_without_class
def test_selecting_all_patches_equals_the_whole_image(dims, class_token):
    encoder, images = build(dims, class_token=class_token), images_for(dims)
    patches = encoder.embed(images)
    everywhere = torch.ones_like(patches[:, 0], dtype=torch.bool)
    chosen = encoder.encode_chosen(patches, select_patches(everywhere))
    torch.testing.assert_close(chosen, as_sequence(encoder(images)[-1]), rtol=1e-5, atol=1e-5)


@both_dims
@with_and_without_class
def test_samples_of_unequal_counts_are_computed_as_if_alone(dims, class_token):
    encoder, images = build(dims, class_token=class_token), images_for(dims, batch=3)
    patches = encoder.embed(images)
    kept = torch.zeros_like(patches[:, 0], dtype=torch.bool)
    for sample, count in enumerate((1, 4, 7)):
        kept.flatten(1)[sample, torch.randperm(kept[0].numel())[:count]] = True
    together = encoder.encode_chosen(patches, select_patches(kept))
    for sample, count in enumerate((1, 4, 7)):
        alone = encoder.encode_chosen(patches[[sample]], select_patches(kept[[sample]]))
        torch.testing.assert_close(together[[sample], :count], alone, rtol=1e-5, atol=1e-5)


@both_dims
def test_dropped_patches_do_not_change_the_others_exactly(dims):
    encoder, images = build(dims), images_for(dims)
    patches = encoder.embed(images)
    kept = torch.zeros_like(patches[:, 0], dtype=torch.bool)
    kept.flatten(1)[0, :3] = kept.flatten(1)[1, :5] = True
    disturbed = patches.where(kept.unsqueeze(1), torch.inf)
    assert torch.equal(
        encoder.encode_chosen(patches, select_patches(kept)),
        encoder.encode_chosen(disturbed, select_patches(kept)),
    )


def test_equal_patches_at_other_positions_have_other_outputs():
    encoder = build()
    last = encoder(torch.ones(1, 1, 6, 8))[-1][0].flatten(1)
    assert last.std(dim=1).mean() > 0.01


@pytest.mark.parametrize(
    ("depth", "read"), [(1, [1]), (3, [1, 2, 3]), (5, [1, 2, 3, 5]), (12, [3, 6, 9, 12])]
)
def test_maps_are_read_at_even_depths(depth, read):
    encoder, outputs = build(depth=depth), []
    for block in encoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    maps = encoder(images_for(2))
    assert len(encoder.channels) == len(encoder.strides) == len(maps) == len(read)
    for features, number in zip(maps[:-1], read[:-1], strict=True):
        assert torch.equal(as_sequence(features), outputs[number - 1])
    assert torch.equal(as_sequence(maps[-1]), encoder.norm(outputs[-1]))


def test_one_network_for_images_of_any_size():
    encoder = build()
    for size in [(2, 2), (6, 8), (10, 4)]:
        assert encoder(torch.randn(1, 1, *size))[-1].shape == (1, 24, size[0] // 2, size[1] // 2)


def test_patches_may_differ_between_axes():
    encoder = build(3, patch=[1, 2, 4])
    assert encoder.total_stride == (1, 2, 4)
    assert encoder(torch.randn(1, 1, 3, 6, 8))[-1].shape == (1, 24, 3, 3, 2)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_default_has_the_size_of_vit_tiny(dims):
    encoder = ViTEncoder(spatial_dims=dims, in_channels=1)
    assert encoder.patch == {2: (16, 16), 3: (8, 8, 8)}[dims]
    assert 5.3e6 < sum(parameter.numel() for parameter in encoder.parameters()) < 5.7e6


@pytest.mark.parametrize("words", [{"depth": 0}, {"width": 25}, {"width": 2}, {"heads": 0}])
def test_invalid_options_are_rejected(words):
    with pytest.raises(
        UsageError, match=r"^encoder_options: expected a depth of at least 1 and a width that is "
    ):
        build(**words)


def test_patches_with_a_wrong_number_of_axes_are_rejected():
    with pytest.raises(
        ShapeError, match=r"^encoder_options patch: expected one or 2 positive sizes, got 2×2×2$"
    ):
        build(patch=[2, 2, 2])
