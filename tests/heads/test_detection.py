import pytest
import torch

from medmim.encoders import ENCODERS, build_encoder
from medmim.errors import UsageError
from medmim.heads import build_head
from medmim.heads.detection import BOXES, SCORES, _focal_loss, detection_loss, level_strides, levels_of

OPTIONS = {
    "dynunet": {"filters": [4, 8, 8]},
    "resnet18": {"widths": [4, 4, 8, 8]},
    "resnet50": {"widths": [2, 2, 4, 4]},
    "vit": {"width": 16, "depth": 4, "heads": 2},
    "swin": {"width": 6, "depths": [1, 1, 1], "heads": [1, 2, 2]},
}


def detector(name="dynunet", dims=2, *, classes=2, count=2):
    torch.manual_seed(0)
    encoder = build_encoder(name, spatial_dims=dims, in_channels=1, **OPTIONS.get(name, {}))
    levels = len(level_strides(encoder, spatial_dims=dims))
    anchors = [[[6.0 * 2**level + one] * dims for one in range(count)] for level in range(levels)]
    return build_head("detect", encoder=encoder, spatial_dims=dims, classes=classes, anchors=anchors, width=8)


def batch(dims):
    torch.manual_seed(1)
    images = torch.randn(2, 1, *(32,) * dims) * 0.1
    images[(0, 0, *(slice(4, 14),) * dims)] += 2
    boxes = torch.zeros(2, 3, 2 * dims)
    boxes[0, 0] = torch.tensor([4.0] * dims + [14.0] * dims)
    classes = torch.full((2, 3), -1)
    classes[0, 0] = 1
    return images, boxes, classes


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_each_anchor_has_scores_and_a_box(name, dims):
    network = detector(name, dims)
    size = tuple(max(2 * stride, 16) for stride in network.encoder.total_stride)
    images = torch.randn(1, 1, *size)
    out = network(images)
    anchors = network.anchors(images, out[SCORES])
    assert torch.cat(network.rows(out[SCORES], 2), dim=1).shape == (1, len(anchors), 2)
    assert torch.cat(network.rows(out[BOXES], 2 * dims), dim=1).shape == (1, len(anchors), 2 * dims)


def test_output_rows_are_in_the_order_of_the_anchors():
    """In a feature map of its own coordinates, the row of an anchor contains the anchor's centre."""
    network = detector(count=3)
    maps = [torch.zeros(1, 3 * 2, 8, 6), torch.zeros(1, 3 * 2, 4, 3)]
    for level in maps:
        places = torch.stack(torch.meshgrid(*map(torch.arange, level.shape[2:]), indexing="ij")).float()
        level[0] = places.repeat(3, 1, 1)
    anchors = network.anchors(torch.zeros(1, 1, 32, 24), maps)
    middles = (anchors[:, :2] + anchors[:, 2:]) / 2
    strides = torch.cat([torch.full((8 * 6 * 3, 1), 4.0), torch.full((4 * 3 * 3, 1), 8.0)])
    rows = torch.cat(network.rows(maps, 2), dim=1)[0]
    assert torch.equal(rows * strides + strides // 2, middles)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_head_can_overfit_one_image(dims):
    network, (images, boxes, classes) = detector(dims=dims), batch(dims)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = detection_loss(network, images, boxes, classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


def test_images_without_boxes_give_gradients():
    network, (images, boxes, classes) = detector(), batch(2)
    loss = detection_loss(network, images, boxes, torch.full_like(classes, -1))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_number_and_strides_of_levels_are_limited():
    assert levels_of([(2, 2), (4, 4), (8, 8), (16, 16)]) == (1, 2, 3)
    assert levels_of([(1, 1), (2, 2), (4, 4), (8, 8)]) == (2, 3)
    assert levels_of([(1, 1), (2, 2)]) == (0, 1)
    assert levels_of([(16, 16)]) == (0,)


@pytest.mark.parametrize(("smallest", "levels"), [(7.9, (1, 2, 3)), (8.0, (2, 3))])
def test_the_finest_level_is_left_out_where_all_boxes_are_larger_than_the_next_stride(smallest, levels):
    assert levels_of([(2, 2), (4, 4), (8, 8), (16, 16)], smallest=smallest) == levels


def test_levels_and_depth_of_a_stored_detector_are_kept():
    encoder = build_encoder("resnet18", spatial_dims=2, in_channels=1, **OPTIONS["resnet18"])
    options = {"encoder": encoder, "spatial_dims": 2, "classes": 1, "width": 8}
    before = build_head("detect", anchors=[[[8.0] * 2], [[16.0] * 2], [[32.0] * 2]], **options)
    assert (before.levels, len(before.box.conv)) == ((1, 2, 3), 12)
    now = build_head("detect", anchors=[[[16.0] * 2], [[32.0] * 2]], depth=2, **options)
    assert (now.levels, len(now.box.conv)) == ((2, 3), 6)


def test_easy_background_hardly_counts():
    """The loss of many certain negatives stays below that of one undecided anchor."""
    scores, target = torch.full((1, 1000, 1), -6.0), torch.zeros(1, 1000, 1)
    assert _focal_loss(scores, target) < _focal_loss(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))


def test_an_unknown_option_is_rejected_with_a_suggestion():
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1)
    with pytest.raises(UsageError, match="does not take the option 'widht'; did you mean 'width'"):
        build_head("detect", encoder=encoder, spatial_dims=2, classes=1, anchors=[], widht=8)
