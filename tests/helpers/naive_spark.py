"""SparK's scheme written out by hand in float64: the dense operation, then a multiplication by the mask.

Nothing of medmim is used: no `Masked`, no `__torch_function__`, no module's forward. Norms gather the visible
voxels by indexing and normalise them as plain lists.
"""

import numpy as np
import torch
import torch.nn.functional as F


def visible_at(hidden, space):
    """Return (batch, 1, *space) float64, 1 at visible voxels."""
    cell = [length // cells for length, cells in zip(space, hidden.shape[1:], strict=True)]
    return torch.from_numpy(np.stack([np.kron(~row, np.ones(cell)) for row in hidden.numpy()]))[:, None]


class Naive:
    """One network's weights and one mask; `place` is the prefix of a layer's weights."""

    def __init__(self, weights, hidden, dims):
        self.weights = {key: value.double() for key, value in weights.items()}
        self.hidden, self.dims = hidden, dims

    def keep(self, x):
        return x * visible_at(self.hidden, tuple(x.shape[2:]))

    def conv(self, x, place, *, stride=1, padding=0):
        conv = F.conv2d if self.dims == 2 else F.conv3d
        w, b = self.weights[f"{place}.weight"], self.weights.get(f"{place}.bias")
        return self.keep(conv(x, w, b, stride=stride, padding=padding))

    def _affine(self, values, place, channel):
        return values * self.weights[f"{place}.weight"][channel] + self.weights[f"{place}.bias"][channel]

    def instance_norm(self, x, place):
        return self.group_norm(x, place, groups=x.shape[1])

    def group_norm(self, x, place, *, groups):
        y, seen = torch.zeros_like(x), visible_at(self.hidden, tuple(x.shape[2:]))[:, 0].bool()
        per_group = x.shape[1] // groups
        for sample in range(x.shape[0]):
            for group in range(groups):
                channels = range(group * per_group, (group + 1) * per_group)
                values = torch.cat([x[sample, channel][seen[sample]] for channel in channels])
                mean, variance = values.mean(), ((values - values.mean()) ** 2).mean()
                for c in channels:
                    normed = (x[sample, c][seen[sample]] - mean) / torch.sqrt(variance + 1e-5)
                    y[sample, c][seen[sample]] = self._affine(normed, place, c)
        return y

    def batch_norm(self, x, place):
        y, seen = torch.zeros_like(x), visible_at(self.hidden, tuple(x.shape[2:]))[:, 0].bool()
        for channel in range(x.shape[1]):
            values = x[:, channel][seen]
            mean, variance = values.mean(), ((values - values.mean()) ** 2).mean()
            y[:, channel][seen] = self._affine((values - mean) / torch.sqrt(variance + 1e-5), place, channel)
        return y

    def dynunet(self, x, strides):
        """The maps of `DynUNetEncoder`; strides relative to the stage before."""
        maps, x = [], self.keep(x)
        for stage, stride in enumerate(strides):
            place = f"stages.{stage}"
            y = self.conv(x, f"{place}.conv1.conv", stride=stride, padding=1)
            y = F.leaky_relu(self.instance_norm(y, f"{place}.norm1"), 0.01)
            y = self.conv(y, f"{place}.conv2.conv", padding=1)
            y = self.instance_norm(y, f"{place}.norm2")
            if f"{place}.conv3.conv.weight" in self.weights:
                x = self.conv(x, f"{place}.conv3.conv", stride=stride)
                x = self.instance_norm(x, f"{place}.norm3")
            x = F.leaky_relu(y + x, 0.01)
            maps.append(x)
        return maps

    def resnet(self, x, *, stem_stride, max_pool, layers):
        """The maps of `ResNetEncoder` with basic blocks."""
        x = self.conv(self.keep(x), "stem.0", stride=stem_stride, padding=3)
        x = F.relu(self.batch_norm(x, "stem.1"))
        if max_pool:
            pool = F.max_pool2d if self.dims == 2 else F.max_pool3d
            x = self.keep(pool(x, 3, 2, 1))
        maps = []
        for stage, blocks in enumerate(layers):
            for block in range(blocks):
                x = self._basic_block(x, f"stages.{stage}.{block}", 2 if stage and not block else 1)
            maps.append(x)
        return maps

    def _basic_block(self, x, place, stride):
        y = self.conv(x, f"{place}.conv1", stride=stride, padding=1)
        y = F.relu(self.batch_norm(y, f"{place}.bn1"))
        y = self.batch_norm(self.conv(y, f"{place}.conv2", padding=1), f"{place}.bn2")
        if f"{place}.downsample.0.weight" in self.weights:
            x = self.conv(x, f"{place}.downsample.0", stride=stride)
            x = self.batch_norm(x, f"{place}.downsample.1")
        return F.relu(y + x)
