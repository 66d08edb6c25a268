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
        return self.keep(self.dense_conv(x, place, stride=stride, padding=padding))

    def dense_conv(self, x, place, *, stride=1, padding=0):
        conv = F.conv2d if self.dims == 2 else F.conv3d
        w, b = self.weights[f"{place}.weight"], self.weights.get(f"{place}.bias")
        return conv(x, w, b, stride=stride, padding=padding, groups=x.shape[1] // w.shape[1])

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

    def layer_norm(self, x, place):
        mean = x.mean(dim=1, keepdim=True)
        normed = (x - mean) / torch.sqrt(((x - mean) ** 2).mean(dim=1, keepdim=True) + 1e-6)
        weight, bias = (
            self.weights[f"{place}.{kind}"].reshape(-1, *[1] * self.dims) for kind in ("weight", "bias")
        )
        return self.keep(normed * weight + bias)

    def convnext(self, x, *, blocks, stem_stride, kernel):
        """The maps of `ConvNeXtEncoder`."""
        maps, x = [], self.keep(x)
        for stage, count in enumerate(blocks):
            first = f"stages.{stage}.0"
            if stage:
                x = self.conv(self.layer_norm(x, f"{first}.0"), f"{first}.1", stride=2)
            else:
                x = self.layer_norm(self.conv(x, f"{first}.0", stride=stem_stride), f"{first}.1")
            for block in range(1, count + 1):
                place = f"stages.{stage}.{block}"
                y = self.layer_norm(self.conv(x, f"{place}.depthwise", padding=kernel // 2), f"{place}.norm")
                y = self.conv(F.gelu(self.conv(y, f"{place}.widen")), f"{place}.narrow")
                x = x + self.weights[f"{place}.scale"] * y
            maps.append(x)
        return maps

    def densify(self, x, place):
        """Norm of visible voxels, token at hidden ones, projection; a norm without buffers is layer norm."""
        batch = f"{place}.norm.running_mean" in self.weights
        normed = self.batch_norm(x, f"{place}.norm") if batch else self.layer_norm(x, f"{place}.norm")
        hidden = 1 - visible_at(self.hidden, tuple(x.shape[2:]))
        filled = normed + hidden * self.weights[f"{place}.token"]
        if f"{place}.project.weight" not in self.weights:
            return filled
        return self.dense_conv(
            filled, f"{place}.project", padding=self.weights[f"{place}.project.weight"].shape[-1] // 2
        )

    def decode(self, maps, *, stages):
        """SparK's decoder: blocks of a transposed convolution of kernel 4 and two of kernel 3."""
        x = maps[0]
        for number in range(stages):
            block = f"decoder.stages.{number}.block"
            up = F.conv_transpose2d if self.dims == 2 else F.conv_transpose3d
            x = up(x, self.weights[f"{block}.0.weight"], self.weights[f"{block}.0.bias"], stride=2, padding=1)
            x = F.relu6(self._dense_norm(self.dense_conv(x, f"{block}.1", padding=1), f"{block}.2"))
            x = self._dense_norm(self.dense_conv(x, f"{block}.4", padding=1), f"{block}.5")
            x = x + maps[number + 1] if number + 1 < len(maps) else x
        return self.dense_conv(x, "decoder.head.linear")

    def _dense_norm(self, x, place):
        axes, shape = (0, *range(2, x.dim())), (1, -1, *[1] * self.dims)
        mean = x.mean(dim=axes, keepdim=True)
        normed = (x - mean) / torch.sqrt(((x - mean) ** 2).mean(dim=axes, keepdim=True) + 1e-5)
        return normed * self.weights[f"{place}.weight"].reshape(shape) + self.weights[
            f"{place}.bias"
        ].reshape(shape)

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
