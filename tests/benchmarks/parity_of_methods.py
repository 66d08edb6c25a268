"""Rows of `parity.py` about methods: weight decay, LAMB, SparK, MAE, Latent MIM.

Losses and gradients of whole methods, with weights in float64 (losses are computed in float32), are compared
with references in float64, in 2D and 3D, with one channel and three. A gradient's error is relative to its
norm, or to a hundredth of the largest one where it is smaller. With weights in float32, roundings move voxels
over the kink of a ReLU6, and single gradients differ by up to 0.3 %.
"""

from __future__ import annotations

import math

import naive_transformers as naive
import official_optimizers as official
import torch
from naive_spark import Naive
from parity_rows import Row, images_of, masks_of

from medmim.encoders import build_encoder
from medmim.encoders.patch_tokens import wave_positions
from medmim.methods import build_method
from medmim.methods.latent_objectives import mean_cosine
from medmim.training.optimizers import build_optimizer

CASES = [(1, (7, 7)), (3, (5, 6)), (1, (3, 4, 2)), (3, (2, 3, 3))]  # channels and grid
CONVNEXT = {"widths": (6, 8, 12), "blocks": (1, 1, 1)}
SPARK_NETS = {"resnet18": {"widths": (4, 6, 8, 12)}, "convnext": CONVNEXT}
VIT = {"patch": 2, "width": 24, "depth": 2, "heads": 2, "norm_eps": 1e-6}


def method_rows():
    """Yield all rows of this file."""
    for part in (optimizer_rows, spark_rows, mae_rows, latent_mim_rows):
        yield from part()


def official_spark(name, channels, dims=2, **options):
    """Return SparK with the official decoder around a small network."""
    torch.manual_seed(0)
    encoder = build_encoder(name, spatial_dims=dims, in_channels=channels, **{**SPARK_NETS[name], **options})
    words = {"decoder": "official", "decoder_width": 32}
    return build_method("spark", encoder=encoder, spatial_dims=dims, cell=encoder.total_stride, **words)


def spread(method, seed=2):
    """Move every vector of weights away from its first value, so that no mistake hides behind 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in method.parameters():
            if sum(length > 1 for length in parameter.shape) <= 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return method


def optimizer_rows():
    """Return LAMB's steps on SparK, and the parameters whose decay differs from the codes' groups."""
    worst, head = 0.0, 0.0
    for name in SPARK_NETS:
        for channels in (1, 3):
            errors = _lamb_errors(official_spark(name, channels))
            worst, head = max(worst, *errors.values()), max(head, errors["decoder.head.linear.weight"])
    reference = "Algorithm 2 of LAMB with SparK's groups"
    what = "weights after five steps, largest relative difference, one channel and three"
    yield Row("LAMB, head of one channel", f"{what}, head", reference, "off by a factor", head, "≤1e-5")
    yield Row("LAMB, head of one channel", f"{what}, all", reference, "–", worst, "≤1e-5")
    methods = {
        "SparK": (official_spark("convnext", 1), official.decays_in_spark, "–", "≤0"),
        "SimMIM on Swin": (_small_method("simmim", "swin"), official.decays_in_simmim, "–", "≤0"),
        "Latent MIM": (
            _small_method("latent_mim", "vit"),
            official.decays_in_latent_mim,
            "`embed` decayed",
            "",
        ),
        "MAE": (_small_method("mae", "vit"), official.decays_in_mae, "–", ""),
    }
    for name, (method, rule, before, bound) in methods.items():
        decay = _decays(method)
        wrong = sum(decay[key] != rule(key, one.shape) for key, one in _trained(method))
        tokens = "; tokens decay in the code, not here" if not bound else ""
        what = f"parameters with another weight decay, of {len(decay)}{tokens}"
        yield Row(f"weight decay of {name}", what, "groups of the code", before, wrong, bound)


def _trained(method):
    return [(key, one) for key, one in method.named_parameters() if one.requires_grad]


def _decays(method):
    groups = build_optimizer([(method, 0.01)], weight_decay=0.1, undecayed=method.undecayed).param_groups
    decay = {id(one): group["weight_decay"] > 0 for group in groups for one in group["params"]}
    return {key: decay[id(one)] for key, one in _trained(method)}


def _lamb_errors(method):
    options = {"lr": 0.02, "betas": (0.9, 0.95)}
    optimizer = build_optimizer(
        [(method, options["lr"])], kind="lamb", betas=options["betas"], weight_decay=0.1
    )
    before = {key: one.detach().double().numpy().copy() for key, one in _trained(method)}
    generator, steps = torch.Generator().manual_seed(0), {key: [] for key in before}
    for _ in range(5):
        for key, one in _trained(method):
            one.grad = torch.randn(one.shape, generator=generator)
            steps[key].append(one.grad.double().numpy().copy())
        optimizer.step()
    errors = {}
    for key, one in _trained(method):
        decay = 0.1 if official.decays_in_spark(key, one.shape) else 0.0
        true = torch.from_numpy(
            official.lamb_by_hand(before[key], steps[key], eps=1e-6, decay=decay, **options)
        )
        errors[key] = ((one.detach() - true).norm() / true.norm()).item()
    return errors


def _small_method(name, encoder, channels=1, dims=2, **options):
    torch.manual_seed(0)
    words = {
        "mae": {**VIT, "class_token": True},
        "latent_mim": {**VIT, "position_stretch": True},
        "simmim": {"patch": 2, "width": 8, "depths": (1, 1), "heads": (2, 2)},
    }
    network = build_encoder(encoder, spatial_dims=dims, in_channels=channels, **words[name])
    chosen = {
        "mae": {"decoder_width": 64, "decoder_depth": 2},
        "latent_mim": {
            "projector": 48,
            "decoder": {"cross": {"width": 64, "depth": 2}},
            "embedding_decay": False,
        },
        "simmim": {},
    }
    cell = (2 if name != "simmim" else 4,) * dims
    return build_method(name, encoder=network, spatial_dims=dims, cell=cell, **{**chosen[name], **options})


def errors_of(method, images, hidden, reference):
    """Return the relative error of the loss and the largest one of the gradients."""
    method, images = method.double(), images.double()
    method.zero_grad(set_to_none=True)
    loss = method(images, hidden).loss
    loss.backward()
    fixed = {key: value.double() for key, value in method.named_buffers()}
    state = {key: one.detach().double().requires_grad_() for key, one in _trained(method)}
    true = reference({**fixed, **state}, images, hidden)
    true.backward()
    least = 1e-2 * max(one.grad.norm() for one in state.values())
    gradients = [
        (one.grad - state[key].grad).norm() / state[key].grad.norm().clamp(min=least)
        for key, one in _trained(method)
    ]
    return abs(loss.item() / true.item() - 1), torch.stack(gradients).max().item()


def _loss_and_gradients(line, found, reference, before):
    """Yield two rows from the errors of several cases."""
    cases = "2D and 3D, one channel and three"
    for name, values in zip(("loss", "gradients"), zip(*found, strict=True), strict=True):
        quoted = before if name == "gradients" else "–"
        yield Row(
            line, f"{name}, largest relative difference, {cases}", reference, quoted, max(values), "≤1e-4"
        )


def spark_rows():
    """Return SparK's loss and gradients on a ConvNeXt whose maps are densified with layer norm."""
    found = [_spark_errors(channels, grid, 32) for channels, grid in CASES]
    yield from _loss_and_gradients(
        "SparK on ConvNeXt", found, "SparK's scheme, densified with LayerNorm", "197 % apart"
    )
    same = [_spark_errors(channels, grid, 12) for channels, grid in CASES]
    what = "gradients, largest relative difference, coarsest map as wide as the decoder"
    worst = max(gradient for _, gradient in same)
    yield Row("SparK on ConvNeXt", what, "SparK's code: no projection there", "–", worst, "≤1e-6")


def _spark_errors(channels, grid, width):
    dims = len(grid)
    torch.manual_seed(0)
    encoder = build_encoder("convnext", spatial_dims=dims, in_channels=channels, **CONVNEXT)
    cell = encoder.total_stride
    words = {"decoder": "official", "decoder_width": width}
    method = spread(build_method("spark", encoder=encoder, spatial_dims=dims, cell=cell, **words))
    images, hidden = images_of(channels, [n * c for n, c in zip(grid, cell, strict=True)]), masks_of(grid)

    def reference(state, images, hidden):
        own = Naive({key.removeprefix("encoder."): value for key, value in state.items()}, hidden, dims)
        maps = own.convnext(images, blocks=CONVNEXT["blocks"], stem_stride=2, kernel={2: 7, 3: 5}[dims])[::-1]
        dense = [own.densify(features, f"densify.{number}") for number, features in enumerate(maps)]
        predicted = own.decode(dense, stages=len(method.decoder.stages))
        return naive.normalised_error(predicted, images, hidden, cell)

    return errors_of(method, images, hidden, reference)


def mae_rows():
    """Return MAE with a class token and its epsilon, and the first spread of its prediction layer."""
    found = []
    for channels, grid in CASES:
        dims = len(grid)
        method = spread(_small_method("mae", "vit", channels, dims))
        sizes = {
            "patch": (2,) * dims,
            "depth": 2,
            "heads": 2,
            "decoder_depth": 2,
            "decoder_heads": 2,
            "eps": 1e-6,
        }
        images, hidden = images_of(channels, [2 * n for n in grid]), masks_of(grid, 0.75, rounding="up")
        found.append(
            errors_of(method, images, hidden, lambda *given, sizes=sizes: naive.mae_loss(*given, **sizes))
        )
    yield from _loss_and_gradients("MAE", found, "MAE's formula, class token, epsilon 1e-6", "no class token")
    yield from _spreads(
        "MAE, first prediction layer", [_small_method("mae", "vit", 3).predict.linear.weight.flatten(1)]
    )


def _spreads(line, weights):
    """Yield the deviation of first weights over that of Xavier's uniform distribution."""
    ratios = [each.std().item() / math.sqrt(2 / sum(each.shape)) for each in weights]
    worst = max(ratios, key=lambda ratio: abs(math.log(ratio)))
    off = abs(worst - 1)
    yield Row(line, "deviation of first weights, relative difference", "Xavier, uniform", "–", off, "≤0.05")


def latent_mim_rows():
    """Return Latent MIM's loss and gradients, and the parts that its presets once lacked."""
    found = []
    for channels, grid in CASES:
        dims = len(grid)
        method = spread(
            _small_method("latent_mim", "vit", channels, dims, target="stop_gradient", similarity=0.1)
        )
        sizes = {"patch": (2,) * dims, "depth": 2, "heads": 2, "decoder": (2, 2), "tau": 0.2}
        sizes |= {"similarity": 0.1, "target_cosine": 0.75}
        images, hidden = images_of(channels, [2 * n for n in grid]), masks_of(grid)
        found.append(
            errors_of(
                method, images, hidden, lambda *given, sizes=sizes: naive.latent_mim_loss(*given, **sizes)
            )
        )
    yield from _loss_and_gradients("Latent MIM", found, "formulas of paper and code, no class token", "–")
    latents = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0))
    unit = latents.double() / latents.double().norm(dim=-1, keepdim=True)
    off = abs(mean_cosine(latents, torch.ones(2, 9, 1)).item() - (unit @ unit.mT).mean().item())
    what = "mean cosine of nine patches, difference"
    yield Row(
        "Latent MIM, self-pairs", what, "mean over all pairs, each patch with itself", "without", off, "≤1e-6"
    )
    far = max(
        (
            wave_positions(grid, 24, device=torch.device("cpu"), stretch=True)
            - naive.positions(grid, 24, stretched=True)
        )
        .abs()
        .max()
        .item()
        for grid in ((14, 14), (7, 7), (12, 10, 8))
    )
    what = "positions, largest difference, 14×14, 7×7 and 12×10×8"
    yield Row(
        "Latent MIM, stretch of positions", what, "0 to n over n patches", "not stretched", far, "≤1e-4"
    )
    method = _small_method("latent_mim", "vit")
    largest = method.decoder.token.abs().max().item()
    yield Row("Latent MIM, mask token", "largest first value", "0", "not 0", largest, "≤0")
    across = [block.across.in_proj_weight for block in method.decoder.blocks]
    parts = [part for weight in across for part in weight.split([64, 128])]
    yield from _spreads("Latent MIM, first cross-attention", parts)
