"""Rows of `parity.py` about packed and masked values, what they refuse, and compilation."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

import tiny
import torch
import torch.nn.functional as F
from einops import rearrange
from naive_spark import visible_at
from parity_rows import Row, images_of, masks_of
from torch import nn

from medmim.config.runs import PretrainSettings
from medmim.encoders import mask, pack
from medmim.errors import MedmimError, ShapeError
from medmim.stages.pretrain.run import pretrain


def response_norm(x, norms):
    """Global response normalization (ConvNeXt V2) from each channel's norm over space, channels at axis 1."""
    return x + x * (norms / (norms.mean(dim=1, keepdim=True) + 1e-6))


def _norms(x):
    return torch.norm(x, p=2, dim=tuple(range(2, x.dim())), keepdim=True)


def _channels_last(layer):
    return lambda x: layer(x.permute(0, *range(2, x.dim()), 1)).permute(
        0, x.dim() - 1, *range(1, x.dim() - 1)
    )


_SPACE = {4: "y x", 5: "z y x"}
# each with the operation and, where it differs, that of the reference on the multiplied image
OPERATIONS = {
    "GRN": (lambda x: response_norm(x, _norms(x)), None),
    "rms_norm": (_channels_last(lambda x: F.rms_norm(x, (x.shape[-1],))), None),
    "softmax over channels": (lambda x: x.softmax(1), None),
    "indexing of channels": (lambda x: x[:, 1:] * 2, None),
    "powers, 1 / x": (lambda x: x**2 + 1 / (x**2 + 1), None),
    "`.data`": (lambda x: x.data * x, None),
    "einops, channels last and back": (
        lambda x: rearrange(
            rearrange(x, f"b c {_SPACE[x.dim()]} -> b {_SPACE[x.dim()]} c") * 2,
            f"b {_SPACE[x.dim()]} c -> b c {_SPACE[x.dim()]}",
        ),
        lambda x: x * 2,
    ),
    "pixel unshuffle and shuffle": (
        lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2) ** 2, 2) if x.dim() == 4 else x**2,
        lambda x: x**2,
    ),
    "adaptive maximum": (lambda x: x * getattr(F, f"adaptive_max_pool{x.dim() - 2}d")(x, 1), None),
}
PADDINGS = ("constant", "reflect", "replicate", "circular")


def packed_rows():
    """Return values and gradients of operations on packed and masked values, in float64."""
    for name, (operation, reference) in OPERATIONS.items():
        worst = max(
            _operation_error(hide, operation, reference or operation, channels, grid, name)
            for hide in (pack, mask)
            for channels, grid in ((2, (3, 4)), (3, (2, 3, 2)))
        )
        words = "refused" if name not in ("`.data`",) else "raw error"
        what = f"{name}: values and gradients, packed and masked, largest relative difference"
        yield Row("packed and masked forms", what, "SparK's scheme by hand", words, worst, "≤1e-10")
    for mode in PADDINGS:
        worst = max(_padding_error(mode, grid) for grid in ((3, 4), (2, 3, 2)))
        what = f"pad ({mode}) before a convolution: values and gradients, masked (packed is refused by name)"
        yield Row("packed and masked forms", what, "SparK's scheme by hand", "refused", worst, "≤1e-10")


def _operation_error(hide, operation, reference, channels, grid, name):
    space, hidden = [6 * n for n in grid], masks_of(grid, 0.5)
    visible = visible_at(hidden, space)
    source = images_of(channels, space).double() - (4 if "maximum" in name else 0)  # hidden zeros would win

    def by_hand(x):
        if "maximum" in name:
            shown = x.masked_fill(visible == 0, -torch.inf).flatten(2).amax(dim=2)
            return x * visible * shown.reshape(*shown.shape, *[1] * len(grid))
        return reference(x * visible) * visible

    return _difference(lambda x: operation(hide(x, hidden)).unpack(), by_hand, source)


def _padding_error(mode, grid):
    space, hidden = [6 * n for n in grid], masks_of(grid, 0.5)
    visible, dims = visible_at(hidden, space), len(grid)
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(3, 2, *[3] * dims, generator=generator, dtype=torch.float64)

    def through(x):
        return getattr(F, f"conv{dims}d")(F.pad(x, [1, 1] * dims, mode=mode), weight)

    source = images_of(2, space).double()
    return _difference(
        lambda x: through(mask(x, hidden)).unpack(), lambda x: through(x * visible) * visible, source
    )


def _difference(first, second, source):
    """Return the largest relative difference of values and of gradients of the images."""
    results = []
    for operation in (first, second):
        leaf = source.clone().requires_grad_()
        values = operation(leaf)
        weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(4), dtype=values.dtype)
        (values * weights).sum().backward()
        results.append((values.detach(), leaf.grad))
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(*results, strict=True))


REFUSED = (
    lambda x: rearrange(x, "b c y x -> b (y x) c"),
    lambda x: x.flatten(2),
    lambda x: x.reshape(2, -1),
    torch.as_tensor,
    lambda x: x[0],
    lambda x: x == 0,
    lambda x: x > 0,
    bool,
    float,
    lambda x: x @ x,
    nn.AdaptiveMaxPool2d(2),
    lambda x: torch.einsum("bcyx,cd->bdyx", x, torch.ones(3, 3)),
)


def refusal_rows():
    """Return how many operations without a form fail with another error than the one that names them."""
    hidden = masks_of((3, 4), 0.5)
    raw = 0
    for operation in REFUSED:
        for hide in (pack, mask):
            try:
                operation(hide(images_of(3, (12, 16)), hidden))
                raw += 1
            except ShapeError:
                pass
            except (TypeError, ValueError, AttributeError, RuntimeError):
                raw += 1
    what = f"operations without a form that are not refused by name, of {2 * len(REFUSED)}"
    yield Row("packed and masked forms", what, "an error that names the operation", "raw errors", raw, "≤0")


def compile_rows():
    """Return the seconds until `compile=true` is refused with packed cells."""
    with tempfile.TemporaryDirectory() as folder:
        data = tiny.make_dataset(Path(folder) / "data", patients=6)
        settings = PretrainSettings(**{**tiny.TINY, "data": data, "steps": 1, "compile": True})
        start, refused = time.perf_counter(), False
        try:
            pretrain(settings, home=Path(folder) / "home")
        except MedmimError as error:
            refused = "torch.compile cannot follow packed cells" in str(error)
        taken = time.perf_counter() - start if refused else math.inf
    yield Row(
        "compile with packed cells",
        "seconds until it is refused",
        "–",
        "5½ minutes, then falls back",
        taken,
        "≤30",
    )
