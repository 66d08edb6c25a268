"""Masks, counts and crops of the official codes, written from their formulas; medmim is not used."""

import math
from fractions import Fraction

import numpy as np
from scipy import ndimage


def beit_mask(draw, count, grid=(14, 14), least=16):
    """Algorithm 1 of BEiT's paper, with the ten attempts per box of its code, which may leave cells over."""
    hidden = np.zeros(grid, dtype=bool)
    while hidden.sum() < count:
        left = count - hidden.sum()
        for _ in range(10):
            area, ratio = draw.uniform(least, left), math.exp(draw.uniform(math.log(0.3), -math.log(0.3)))
            a, b = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if a >= grid[0] or b >= grid[1]:
                continue
            top, first = draw.randint(0, grid[0] - a), draw.randint(0, grid[1] - b)
            box = hidden[top : top + a, first : first + b]
            if 0 < (~box).sum() <= left:
                box[:] = True
                break
        else:
            return hidden
    return hidden


def block_statistics(masks):
    """Mean number of components, share of hidden edge cells, share of hidden corner cells."""
    edge = np.ones(masks.shape[1:], dtype=bool)
    edge[1:-1, 1:-1] = False
    corners = masks[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    components = [ndimage.label(sample)[1] for sample in masks]
    return np.array([np.mean(components), masks[:, edge].mean(), corners.mean()])


def void_and_cluster(grid, count, rng, sigma=0.8):
    """An even pattern of `count` cells on a periodic grid (Ulichney 1993) from a random start."""
    place = np.stack(np.unravel_index(np.arange(math.prod(grid)), grid), axis=1)
    steps = np.abs(place[:, None] - place[None])
    blur = np.exp(-(np.minimum(steps, np.array(grid) - steps) ** 2).sum(axis=2) / (2 * sigma**2))
    chosen = np.zeros(len(place), dtype=bool)
    start = rng.permutation(len(place))
    chosen[start[: max(1, round(0.25 * len(place)))]] = True
    for _ in range(len(place)):  # from clusters to voids
        tight = np.where(chosen, blur @ chosen, -np.inf).argmax()
        chosen[tight] = False
        void = np.where(chosen, np.inf, blur @ chosen).argmin()
        chosen[void] = True
        if void == tight:
            break
    while chosen.sum() < count:
        chosen[np.where(chosen, np.inf, blur @ chosen).argmin()] = True
    while chosen.sum() > count:
        chosen[np.where(chosen, blur @ chosen, -np.inf).argmax()] = False
    return chosen.reshape(grid)


def hidden_by_mae(cells, ratio):
    """MAE: the visible count is rounded down, in exact arithmetic."""
    return cells - math.floor(cells * (1 - Fraction(str(ratio))))


def hidden_by_simmim(cells, ratio):
    """SimMIM: the hidden count is rounded up, in exact arithmetic."""
    return math.ceil(cells * Fraction(str(ratio)))


def hidden_by_spark(cells, ratio):
    """SparK: the visible count is rounded to the nearest."""
    return cells - round(cells * (1 - Fraction(str(ratio))))


def resized_box(draw, space, scale):
    """Height and width of torchvision's RandomResizedCrop: ten tries, then the centre; None: the centre."""
    for _ in range(10):
        area = space[0] * space[1] * draw.uniform(*scale)
        aspect = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= space[1] and 0 < height <= space[0]:
            return height, width
    return None


def centred_box(space):
    """The box that torchvision falls back to: its aspect is limited to 3/4 … 4/3."""
    height, width = space
    if width / height < 3 / 4:
        return round(width / (3 / 4)), width
    if width / height > 4 / 3:
        return height, round(height * 4 / 3)
    return height, width


def neighbours_kept(hidden, reuse):
    """Pairs of hidden neighbours along an axis, and how many are neighbours in the reuse image.

    Args:
        hidden: mask of one sample.
        reuse: reuse image of cells of one voxel whose values are their numbers from 1 on; 0: empty.
    """
    numbers = np.arange(1, hidden.size + 1).reshape(hidden.shape) * hidden
    pairs = kept = 0
    for axis in range(hidden.ndim):
        before, after = (_pairs(array, axis) for array in (numbers, np.asarray(reuse)))
        pairs, kept = pairs + len(before), kept + len(before & after)
    return pairs, kept


def _pairs(numbers, axis):
    ahead, behind = np.swapaxes(numbers, 0, axis)[:-1].ravel(), np.swapaxes(numbers, 0, axis)[1:].ravel()
    return {(int(a), int(b)) for a, b in zip(ahead, behind, strict=True) if a and b}
