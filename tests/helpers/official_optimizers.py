"""Optimizer steps and parameter groups of the official codes, written from their formulas in float64."""

import math

import numpy as np


def lamb_by_hand(weights, gradients, *, lr, betas, eps, decay):
    """Algorithm 2 of arXiv 1904.00962; weights without decay have no trust ratio, as in the codes of LAMB."""
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step, gradient in enumerate(gradients, start=1):
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient**2
        ratio = (mean / (1 - betas[0] ** step)) / (np.sqrt(square / (1 - betas[1] ** step)) + eps)
        move = ratio + decay * weights
        length, size = math.sqrt((weights**2).sum()), math.sqrt((move**2).sum())
        trust = length / size if decay and length and size else 1.0
        weights = weights - lr * trust * move
    return weights


def decays_in_spark(name, shape):
    """SparK: no decay for vectors, biases, tokens and layer scales."""
    return len(shape) > 1 and not name.endswith(("bias", "token", "scale"))


def decays_in_simmim(name, shape):
    """SimMIM: no decay for vectors, biases, tokens and position tables."""
    return len(shape) > 1 and not name.endswith(("bias", "token", "relative_position_bias_table"))


def decays_in_latent_mim(name, shape):
    """Latent MIM: no decay for vectors, biases and whatever has `embed` in its name, both embeddings."""
    return len(shape) > 1 and name not in ("encoder.patches.weight", "decoder.embed.weight")


def decays_in_mae(name, shape):
    """MAE: no decay for vectors and biases; the tokens decay."""
    return len(shape) > 1 and not name.endswith(".bias")
