"""MAE and Latent MIM written out by hand in float64, from their papers and the meaning of each weight.

Nothing of medmim is used but the names of its weights. Positions are those of the official codes with the
axes in grid order; both codes put the last axis first, which exchanges channels.
"""

import itertools
import math

import torch


def positions(grid, width, *, stretched=False):
    """Sine and cosine of each axis, an equal share of the channels, (patches, width)."""
    share = width // (2 * len(grid))
    rows = []
    for place in itertools.product(*map(range, grid)):
        row = []
        for index, length in zip(place, grid, strict=True):
            at = index * length / (length - 1) if stretched and length > 1 else index
            angles = [at / 10000 ** (number / share) for number in range(share)]
            row += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        rows.append(row + [0.0] * (width - len(row)))
    return torch.tensor(rows, dtype=torch.float64)


def patches_of(image, patch):
    """(patches, channels × voxels of a patch), the patches in grid order."""
    grid = [length // step for length, step in zip(image.shape[1:], patch, strict=True)]
    rows = []
    for place in itertools.product(*map(range, grid)):
        window = tuple(slice(i * step, (i + 1) * step) for i, step in zip(place, patch, strict=True))
        rows.append(image[(slice(None), *window)].reshape(-1))
    return torch.stack(rows)


class NaiveTransformer:
    """The weights of one method, and layers on sequences (patches, width) of one sample."""

    def __init__(self, state, *, eps):
        self.state, self.eps = state, eps

    def linear(self, x, place):
        bias = self.state.get(f"{place}.bias")
        y = x @ self.state[f"{place}.weight"].T
        return y if bias is None else y + bias

    def norm(self, x, place, eps=None):
        mean = x.mean(dim=-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
        normed = (x - mean) / torch.sqrt(variance + (self.eps if eps is None else eps))
        return normed * self.state[f"{place}.weight"] + self.state[f"{place}.bias"]

    def gelu(self, x):
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    def mlp(self, x, place):
        return self.linear(self.gelu(self.linear(x, f"{place}.linear1")), f"{place}.linear2")

    def attend(self, queries, keys, values, heads):
        parts = []
        for q, k, v in zip(*(each.chunk(heads, dim=-1) for each in (queries, keys, values)), strict=True):
            parts.append(torch.softmax(q @ k.T / math.sqrt(q.shape[1]), dim=-1) @ v)
        return torch.cat(parts, dim=-1)

    def block(self, x, place, heads):
        joint = self.linear(self.norm(x, f"{place}.norm1"), f"{place}.attention.qkv")
        y = x + self.linear(self.attend(*joint.chunk(3, dim=-1), heads), f"{place}.attention.out_proj")
        return y + self.mlp(self.norm(y, f"{place}.norm2"), f"{place}.mlp")

    def cross_block(self, x, context, place, heads):
        normed = self.norm(x, f"{place}.norms.0")
        x = x + self.multihead(normed, normed, f"{place}.among", heads)
        x = x + self.multihead(
            self.norm(x, f"{place}.norms.1"), self.norm(context, f"{place}.norms.2"), f"{place}.across", heads
        )
        return x + self.mlp(self.norm(x, f"{place}.norms.3"), f"{place}.mlp")

    def multihead(self, x, context, place, heads):
        weights = self.state[f"{place}.in_proj_weight"].chunk(3)
        biases = self.state[f"{place}.in_proj_bias"].chunk(3)
        q, k, v = (s @ w.T + b for s, w, b in zip((x, context, context), weights, biases, strict=True))
        return self.linear(self.attend(q, k, v, heads), f"{place}.out_proj")

    def encode(self, tokens, place, *, depth, heads):
        """Run the blocks of a ViT after its class token, where there is one, and normalise."""
        token = self.state.get(f"{place}.token")
        x = tokens if token is None else torch.cat([token[0], tokens])
        for number in range(depth):
            x = self.block(x, f"{place}.blocks.{number}", heads)
        return self.norm(x, f"{place}.norm")

    def embed(self, image, patch):
        weight = self.state["encoder.patches.weight"]
        return patches_of(image, patch) @ weight.flatten(1).T + self.state["encoder.patches.bias"]


def mae_loss(state, images, hidden, *, patch, depth, heads, decoder_depth, decoder_heads, eps):
    """MAE's loss (arXiv 2111.06377) with a class token; `hidden` is a mask of patches."""
    net, grid = NaiveTransformer(state, eps=eps), tuple(hidden.shape[1:])
    width, decoder_width = state["encoder.norm.weight"].shape[0], state["decoder.norm.weight"].shape[0]
    errors = []
    for image, covered in zip(images, hidden.flatten(1), strict=True):
        visible, wanted = (~covered).nonzero()[:, 0], covered.nonzero()[:, 0]
        tokens = (net.embed(image, patch) + positions(grid, width))[visible]
        latents = net.linear(net.encode(tokens, "encoder", depth=depth, heads=heads), "decoder.embed")
        whole = state["decoder.token"][0].expand(len(covered), -1).clone()
        ahead = len(latents) - len(visible)
        whole[visible] = latents[ahead:]
        x = torch.cat([latents[:ahead], whole + positions(grid, decoder_width)])
        for number in range(decoder_depth):
            x = net.block(x, f"decoder.blocks.{number}", decoder_heads)
        x = net.norm(x, "decoder.norm")[ahead:][wanted]
        head = state["predict.linear.weight"].flatten(1)
        predicted = x @ head.T + state["predict.linear.bias"]
        true = patches_of(image, patch)[wanted]  # both with the channels outermost
        mean = true.mean(dim=1, keepdim=True)
        variance = ((true - mean) ** 2).sum(dim=1, keepdim=True) / (true.shape[1] - 1)
        errors.append(((predicted - (true - mean) / torch.sqrt(variance + 1e-6)) ** 2).mean(dim=1))
    return torch.cat(errors).mean()


def latent_mim_loss(state, images, hidden, *, patch, depth, heads, decoder, tau, similarity, target_cosine):
    """Latent MIM's loss (arXiv 2407.15837): InfoNCE among an image's hidden patches, and the constraint.

    Args:
        decoder: depth and heads of the cross-attention decoder.
    """
    net, grid = NaiveTransformer(state, eps=1e-6), tuple(hidden.shape[1:])
    width, decoder_width = state["encoder.norm.weight"].shape[0], state["decoder.norm.weight"].shape[0]
    losses, cosines = [], []
    for image, covered in zip(images, hidden.flatten(1), strict=True):
        visible, wanted = (~covered).nonzero()[:, 0], covered.nonzero()[:, 0]
        tokens = net.embed(image, patch) + positions(grid, width, stretched=True)
        seen, true = (
            _projected(net, net.encode(tokens[chosen], "encoder", depth=depth, heads=heads))
            for chosen in (visible, wanted)
        )
        at = positions(grid, decoder_width, stretched=True)
        context = net.linear(seen, "decoder.embed")
        cue = torch.softmax(at[wanted] @ at[visible].T / math.sqrt(decoder_width), dim=-1) @ context
        x = state["decoder.token"][0] + cue + at[wanted]
        for number in range(decoder[0]):
            x = net.cross_block(x, context + at[visible], f"decoder.blocks.{number}", decoder[1])
        predicted = net.linear(net.norm(x, "decoder.norm"), "predict")
        centred = predicted - predicted.mean(dim=0)
        spread = torch.sqrt((centred**2).sum(dim=0) / (len(centred) - 1)) + 1e-4
        scores = torch.softmax(_unit(centred / spread) @ _unit(true.detach()).T / tau, dim=-1)
        losses.append(-torch.log(scores.diagonal()).mean() * 2 * tau)
        cosines.append([(_unit(each) @ _unit(each).T).mean() for each in (predicted, seen)])
    pairs = [torch.stack(each).mean() for each in zip(*cosines, strict=True)]  # with each patch and itself
    return torch.stack(losses).mean() + similarity * sum((each - target_cosine) ** 2 for each in pairs)


def _projected(net, x):
    """Three linear layers, each followed by layer norm of PyTorch's epsilon, GELU between."""
    for number in (0, 3, 6):
        x = net.norm(net.linear(x, f"projector.{number}"), f"projector.{number + 1}", eps=1e-5)
        x = net.gelu(x) if number < 6 else x
    return x


def _unit(x):
    return x / torch.sqrt((x**2).sum(dim=-1, keepdim=True))


def normalised_error(predicted, images, hidden, cell):
    """Mean squared error of hidden cells to pixels normalised cell by cell, as in SparK and MAE."""
    errors = []
    for one, image, covered in zip(predicted, images, hidden.flatten(1), strict=True):
        guess, true = (patches_of(each, cell)[covered] for each in (one, image))
        mean = true.mean(dim=1, keepdim=True)
        variance = ((true - mean) ** 2).sum(dim=1, keepdim=True) / (true.shape[1] - 1)
        errors.append(((guess - (true - mean) / torch.sqrt(variance + 1e-6)) ** 2).mean(dim=1))
    return torch.cat(errors).mean()
