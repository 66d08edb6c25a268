"""Detection: RetinaNet's heads (Lin et al., ICCV 2017) on a feature pyramid over the encoder's maps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from monai.apps.detection.networks.retinanet_network import (
    RetinaNetClassificationHead,
    RetinaNetRegressionHead,
)
from monai.apps.detection.utils.box_coder import BoxCoder
from monai.apps.detection.utils.hard_negative_sampler import HardNegativeSampler
from monai.losses.giou_loss import BoxGIoULoss
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from torch import Tensor, nn
from torch.nn import functional as F

from medmim.distributed import sum_of_all
from medmim.encoders import Encoder
from medmim.heads.anchors import AnchorGrid, Anchors, Shapes, matched
from medmim.heads.pyramid import Pyramid
from medmim.shapes import Images, Scalar, Size

SCORES, BOXES = "scores", "boxes"

_FINEST = 4  # voxels; finer maps cost more than small boxes gain
_LEVELS = 3
ShapeLists = Sequence[Sequence[Sequence[float]]]

_SAMPLED = 64  # anchors of an image in the loss
_POSITIVE = 0.33  # of them, at most


class Detector(nn.Module):
    """An encoder, a feature pyramid over some of its maps, and two heads that all levels share.

    Args:
        encoder: any encoder.
        spatial_dims: 2 or 3.
        classes: of findings.
        anchors: shapes for each level, as `anchor_shapes` gives them; as many levels as `level_strides`.
        width: channels of the pyramid, a multiple of 8.
    """

    def __init__(
        self, *, encoder: Encoder, spatial_dims: int, classes: int, anchors: ShapeLists, width: int = 64
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.maps = Pyramid(encoder, spatial_dims=spatial_dims)
        self.levels = levels_of(self.maps.strides)
        self.grid = AnchorGrid(_as_shapes(anchors))
        self.classes = classes
        self.coder = BoxCoder(weights=(1.0,) * 2 * spatial_dims)
        self.pyramid = FeaturePyramidNetwork(
            spatial_dims, [self.maps.channels[level] for level in self.levels], width
        )
        self.score = RetinaNetClassificationHead(width, self.grid.per_place, classes, spatial_dims)
        self.box = RetinaNetRegressionHead(width, self.grid.per_place, spatial_dims)

    def forward(self, images: Images) -> dict[str, list[Tensor]]:
        """Return maps of scores and of box changes, one of each for every level."""
        maps = self.maps(self.encoder(images))
        features = list(self.pyramid(OrderedDict((str(n), maps[n]) for n in self.levels)).values())
        # not their `forward`, which raises for NaN: the guard of training judges a step by its loss
        scores = [self.score.cls_logits(self.score.conv(one)) for one in features]
        return {SCORES: scores, BOXES: [self.box.bbox_reg(self.box.conv(one)) for one in features]}

    def anchors(self, images: Images, maps: Sequence[Tensor]) -> Anchors:
        """Return the anchors of one of these images."""
        return self.grid(images, maps)

    def rows(self, maps: Sequence[Tensor], width: int) -> list[Float[Tensor, "batch anchors {width}"]]:
        """Return maps (batch, anchors · width, *grid) as rows in the order of the anchors, level by level."""
        order = "b (anchors width) places -> b (places anchors) width"
        return [rearrange(level.flatten(2), order, width=width) for level in maps]


def levels_of(strides: Sequence[Size]) -> tuple[int, ...]:
    """Return which maps become levels: the last three of stride 4 or more, at least two."""
    coarse = [number for number, stride in enumerate(strides) if max(stride) >= _FINEST]
    count = max(len(coarse[-_LEVELS:]), min(2, len(strides)))
    return tuple(range(len(strides)))[-count:]


def level_strides(encoder: Encoder, *, spatial_dims: int) -> tuple[Size, ...]:
    """Return the strides of the levels that a detector on this encoder has."""
    strides = Pyramid(encoder, spatial_dims=spatial_dims).strides
    return tuple(strides[level] for level in levels_of(strides))


def detection_loss(
    network: Detector,
    images: Images,
    boxes: Float[Tensor, "batch most sides"],
    classes: Int[Tensor, "batch most"],
) -> Scalar:
    """Return cross entropy on sampled anchors plus GIoU loss of those that answer for a box.

    Anchors are matched by ATSS; the negatives are among the hardest. Images without a box teach negatives.

    Args:
        network: the detector.
        images: a batch.
        boxes: of each image, in voxels.
        classes: of each box; -1 where there is none.
    """
    out = network(images)
    anchors = network.anchors(images, out[SCORES])
    places = [level[0, 0].numel() for level in out[SCORES]]
    scores = torch.cat(network.rows(out[SCORES], network.classes), dim=1).float()
    changes = torch.cat(network.rows(out[BOXES], boxes.shape[2]), dim=1).float()
    sampler = HardNegativeSampler(_SAMPLED, _POSITIVE, min_neg=8, pool_size=10)
    wrong, off = [], []
    for number, real in enumerate(classes >= 0):
        index = matched(boxes[number][real], anchors, places=places, per_place=network.grid.per_place)
        positive = index >= 0
        target = torch.zeros_like(scores[number])
        target[positive, classes[number][real][index[positive]]] = 1
        chosen = _sampled(sampler, index, scores[number])
        wrong.append(
            F.binary_cross_entropy_with_logits(scores[number][chosen], target[chosen], reduction="sum")
        )
        wrong[-1] = wrong[-1] / max(int(positive[chosen].sum()), 1)
        if positive.any() and torch.isfinite(changes[number]).all():
            decoded = network.coder.decode_single(changes[number][positive], anchors[positive])
            off.append(BoxGIoULoss(reduction="mean")(decoded, boxes[number][real][index[positive]]))
    return torch.stack(wrong).mean() + 2 * _mean_off(off, changes, training=network.training)


def _mean_off(off: list[Tensor], changes: Tensor, *, training: bool) -> Scalar:
    """Return the mean over the images with boxes of the whole step, of which a process may have none."""
    # without any box the sum still reaches every weight, so that an optimiser step means the same
    total = torch.stack(off).sum() if off else changes.sum() * 0
    sums = torch.stack([total, total.new_tensor(float(len(off)))])
    total, images = sum_of_all(sums) if training else sums
    mean: Scalar = total / images.clamp(min=1)
    return mean


def _sampled(sampler: HardNegativeSampler, index: Tensor, scores: Tensor) -> Tensor:
    positive, negative = sampler([index + 1], scores.detach().amax(dim=1))
    chosen: Tensor = torch.cat(positive).bool() | torch.cat(negative).bool()
    return chosen


def _as_shapes(anchors: ShapeLists) -> Shapes:
    """Return shapes that may come from JSON, as lists."""
    return tuple(tuple(tuple(float(side) for side in shape) for shape in level) for level in anchors)
