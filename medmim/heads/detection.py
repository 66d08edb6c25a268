"""Detection: RetinaNet's heads (Lin et al., ICCV 2017) on a feature pyramid of the encoder's maps."""

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
from monai.losses.giou_loss import BoxGIoULoss
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from torch import Tensor, nn
from torch.nn import functional as F

from medmim.distributed import all_reduce_sum
from medmim.encoders import Encoder
from medmim.heads.anchors import AnchorGrid, Anchors, match_anchors
from medmim.heads.pyramid import Pyramid
from medmim.shapes import Images, Scalar, Size

SCORES, BOXES = "scores", "boxes"

_MIN_STRIDE = 4  # voxels; finer maps cost more than they gain
_LEVELS = 3
ShapeLists = Sequence[Sequence[Sequence[float]]]

_ALPHA, _GAMMA = 0.25, 2.0  # of the focal loss, as published
_BOX_WEIGHT = 2.0  # of the GIoU loss


class Detector(nn.Module):
    """An encoder, a feature pyramid, and a classification and a box head shared by all levels.

    Args:
        classes: number of classes of findings.
        anchors: anchor shapes of each level of `level_strides`, as `anchor_shapes` returns them.
        width: channels of the pyramid, a multiple of 8.
        depth: convolutions of each head before its output, at most 4.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        spatial_dims: int,
        classes: int,
        anchors: ShapeLists,
        width: int = 64,
        depth: int = 4,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.maps = Pyramid(encoder, spatial_dims=spatial_dims)
        self.levels = tuple(range(len(self.maps.strides)))[-len(anchors) :]
        shapes = tuple(tuple(tuple(map(float, shape)) for shape in level) for level in anchors)
        self.grid = AnchorGrid(shapes)
        self.classes = classes
        self.coder = BoxCoder(weights=(1.0,) * 2 * spatial_dims)
        self.pyramid = FeaturePyramidNetwork(
            spatial_dims, [self.maps.channels[level] for level in self.levels], width
        )
        self.score = RetinaNetClassificationHead(width, self.grid.per_place, classes, spatial_dims)
        self.box = RetinaNetRegressionHead(width, self.grid.per_place, spatial_dims)
        for head in (self.score, self.box):
            head.conv = head.conv[: 3 * depth]  # convolution, norm and activation
            for layer in head.conv[::3]:  # MONAI's tiny weights before a norm make Adam's steps too large
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, images: Images) -> dict[str, list[Tensor]]:
        """Return score maps and box regression maps, one of each for every level."""
        maps = self.maps(self.encoder(images))
        features = list(self.pyramid(OrderedDict((str(n), maps[n]) for n in self.levels)).values())
        # MONAI's `forward` raises for NaN; here the guard of training handles a loss that is not finite
        scores = [self.score.cls_logits(self.score.conv(one)) for one in features]
        return {SCORES: scores, BOXES: [self.box.bbox_reg(self.box.conv(one)) for one in features]}

    def anchors(self, images: Images, maps: Sequence[Tensor]) -> Anchors:
        """Return the anchors of one image of a batch."""
        return self.grid(images, maps)

    def rows(self, maps: Sequence[Tensor], width: int) -> list[Float[Tensor, "batch anchors {width}"]]:
        """Flatten maps (batch, anchors · width, *grid) to one row for each anchor, level by level."""
        order = "b (anchors width) places -> b (places anchors) width"
        return [rearrange(level.flatten(2), order, width=width) for level in maps]


def levels_of(strides: Sequence[Size], *, smallest: float = 0.0) -> tuple[int, ...]:
    """Return the indices of the maps used as pyramid levels: the last three of stride ≥ 4, at least two.

    Args:
        strides: stride of each map, fine to coarse.
        smallest: side in voxels of small boxes; the finest of three maps is left out where the next one has
            a smaller stride than this, since it takes most of the time.
    """
    coarse = [number for number, stride in enumerate(strides) if max(stride) >= _MIN_STRIDE]
    count = max(len(coarse[-_LEVELS:]), min(2, len(strides)))
    levels = tuple(range(len(strides)))[-count:]
    return levels[1:] if count == _LEVELS and max(strides[levels[1]]) <= smallest else levels


def level_strides(encoder: Encoder, *, spatial_dims: int, smallest: float = 0.0) -> tuple[Size, ...]:
    """Return the strides of the pyramid levels of a detector with this encoder; see `levels_of`."""
    strides = Pyramid(encoder, spatial_dims=spatial_dims).strides
    return tuple(strides[level] for level in levels_of(strides, smallest=smallest))


def detection_loss(
    network: Detector,
    images: Images,
    boxes: Float[Tensor, "batch most sides"],
    classes: Int[Tensor, "batch most"],
) -> Scalar:
    """Return the focal loss of all anchors plus the GIoU loss of positive ones, per positive anchor.

    ATSS assigns anchors to boxes. Images without boxes contribute negatives only.

    Args:
        boxes: boxes of each image in voxels, padded.
        classes: class of each box, -1 for padding.
    """
    out = network(images)
    anchors = network.anchors(images, out[SCORES])
    places = [level[0, 0].numel() for level in out[SCORES]]
    scores = torch.cat(network.rows(out[SCORES], network.classes), dim=1).float()
    changes = torch.cat(network.rows(out[BOXES], boxes.shape[2]), dim=1).float()
    target, positives = torch.zeros_like(scores), 0
    off = changes.sum() * 0  # without boxes, every weight still has a gradient
    for number, real in enumerate(classes >= 0):
        index = match_anchors(boxes[number][real], anchors, places=places, per_place=network.grid.per_place)
        positive = index >= 0
        positives += int(positive.sum())
        target[number, positive, classes[number][real][index[positive]]] = 1
        if positive.any() and torch.isfinite(changes[number]).all():
            decoded = network.coder.decode_single(changes[number][positive], anchors[positive])
            off = off + BoxGIoULoss(reduction="sum")(decoded, boxes[number][real][index[positive]])
    total = _focal_loss(scores, target) + _BOX_WEIGHT * off
    sums = torch.stack([total, total.new_tensor(float(positives))])
    total, count = all_reduce_sum(sums) if network.training else sums
    mean: Scalar = total / count.clamp(min=1)
    return mean


def _focal_loss(scores: Tensor, target: Tensor) -> Scalar:
    """Return the focal loss (Lin et al., ICCV 2017), summed over anchors and classes."""
    entropy = F.binary_cross_entropy_with_logits(scores, target, reduction="none")
    chance = torch.sigmoid(scores)
    wrong = torch.where(target > 0, _ALPHA * (1 - chance) ** _GAMMA, (1 - _ALPHA) * chance**_GAMMA)
    total: Scalar = (wrong * entropy).sum()
    return total
