"""Synthetic heads: tissues, vessels and lesions as smooth shapes with the contrast of T1-weighted MR.

Segmenting the lesions requires learning: their contrast varies, and vessels, fat and plexus are as bright.
Coordinates are x to the left, y to the back, z to the crown, from -1 to 1 across the skin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int16, UInt8
from scipy import ndimage

Field = Float[np.ndarray, "x y z"]
Labels = UInt8[np.ndarray, "x y z"]

LABEL_NAMES = {1: "lesion", 2: "core"}
_INTENSITY = {
    "fat": 1.0, "skull": 0.08, "csf": 0.14, "grey": 0.44, "white": 0.70, "vessel": 1.05, "air": 0.02,
}  # fmt: skip
_REACH = (1.20, 1.06, 0.83)  # half the field of view, from the eyes to below the crown
_GAIN = 700.0  # grey value of the brightest tissue


@dataclass(frozen=True, eq=False)
class Head:
    """Grey values, and the class of each voxel (see `LABEL_NAMES`)."""

    image: Int16[np.ndarray, "x y z"]
    label: Labels


@dataclass(frozen=True, eq=False)
class _Space:
    """Head coordinates of every voxel, the voxel size in these coordinates, and a random generator."""

    x: Field
    y: Field
    z: Field
    step: tuple[float, ...]
    rng: np.random.Generator

    def noise(self, scale: float) -> Field:
        """Draw smooth noise of unit variance; `scale` is its correlation length in head coordinates."""
        sigma = [scale / step for step in self.step]
        field = ndimage.gaussian_filter(self.rng.standard_normal(self.x.shape), sigma, mode="reflect")
        return np.asarray((field - field.mean()) / field.std())

    def ball(self, centre: tuple[float, ...], radii: tuple[float, ...]) -> Field:
        """Return the distance to an ellipsoid's surface, in head coordinates; negative inside."""
        parts = zip((self.x, self.y, self.z), centre, radii, strict=True)
        length = np.sqrt(sum(((axis - at) / radius) ** 2 for axis, at, radius in parts))
        return np.asarray((length - 1) * min(radii))

    def inside(self, distance: Field) -> Field:
        """Turn a distance into a share of each voxel: a soft edge of about one voxel."""
        return np.asarray(1 / (1 + np.exp(np.clip(distance / (0.25 * self.step[0]), -30, 30))))


def draw_head(shape: tuple[int, int, int], *, rng: np.random.Generator) -> Head:
    """Draw a head with random shape, folds, lesions, field inhomogeneity and noise.

    Args:
        shape: voxels along left, back and crown.
    """
    space = _place(shape, rng)
    brain_edge = space.ball((0.0, 0.0, -0.05), (0.80, 0.84, 0.84)) + 0.02 * space.noise(0.25)
    image = _skin_and_skull(space)
    image = _paint_brain(space, image, edge=brain_edge)
    image = _paint_ventricles(space, image)
    image = _paint_vessels(space, image, edge=brain_edge)
    image, label = _paint_lesions(space, image, edge=brain_edge)
    return Head(_scan(space, image), label)


def _place(shape: tuple[int, int, int], rng: np.random.Generator) -> _Space:
    """Return the head coordinates of the voxels, slightly rotated, scaled and bent."""
    axes = [np.linspace(-end, end, length) for end, length in zip(_REACH, shape, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    turn, tilt = rng.normal(0, 0.06, 2)
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    y, z = y * np.cos(tilt) + z * np.sin(tilt), z * np.cos(tilt) - y * np.sin(tilt)
    x, y, z = (axis * rng.uniform(0.96, 1.06) + rng.normal(0, 0.02) for axis in (x, y, z))
    step = tuple(2 * end / (length - 1) for end, length in zip(_REACH, shape, strict=True))
    space = _Space(x, y, z + 0.02, step, rng)
    bend = [0.018 * space.noise(0.45) for _ in range(3)]
    return _Space(x + bend[0], y + bend[1], z + 0.02 + bend[2], step, rng)


def _skin_and_skull(space: _Space) -> Field:
    image = np.full(space.x.shape, _INTENSITY["air"])
    skin = space.ball((0.0, 0.0, -0.05), (0.98, 1.0, 1.0))
    image = _over(image, _INTENSITY["fat"] * 0.97, share=space.inside(skin))
    bone = space.ball((0.0, 0.0, -0.05), (0.91, 0.94, 0.94))
    image = _over(image, _INTENSITY["skull"], share=space.inside(bone))
    for side in (-1, 1):  # eyes, in their fat
        orbit = space.ball((0.36 * side, -0.80, -0.62), (0.21, 0.20, 0.20))
        image = _over(image, _INTENSITY["fat"] * 0.8, share=space.inside(orbit))
        eye = space.ball((0.36 * side, -0.84, -0.62), (0.15, 0.14, 0.15))
        image = _over(image, _INTENSITY["csf"] * 1.3, share=space.inside(eye))
    return image


def _paint_brain(space: _Space, image: Field, *, edge: Field) -> Field:
    """Paint fluid, grey matter with sulci, white matter that follows the folds, and deep nuclei."""
    image = _over(image, _INTENSITY["csf"], share=space.inside(edge))
    folds = space.noise(0.05)
    sulci = edge + 0.02 + 0.10 * np.clip(folds - 0.3, 0, None)
    image = _over(image, _INTENSITY["grey"], share=space.inside(sulci))
    white = edge + 0.19 + 0.10 * folds
    image = _over(image, _INTENSITY["white"] * (1 + 0.02 * space.noise(0.15)), share=space.inside(white))
    for side in (-1, 1):
        thalamus = space.ball((0.13 * side, 0.12, -0.12), (0.10, 0.17, 0.14))
        caudate = space.ball((0.20 * side, -0.24, 0.02), (0.07, 0.14, 0.16))
        putamen = space.ball((0.33 * side, -0.08, -0.12), (0.08, 0.22, 0.16))
        nuclei = np.minimum(np.minimum(thalamus, caudate), putamen) + 0.01 * space.noise(0.1)
        image = _over(image, _INTENSITY["grey"] * 1.06, share=space.inside(nuclei))
    falx = np.abs(space.x) - 0.022 + 0.09 * np.clip(edge + 0.42, -1, 0) ** 2 + np.clip(-0.32 - edge, 0, None)
    return _over(image, _INTENSITY["csf"], share=space.inside(falx) * space.inside(edge))


def _paint_ventricles(space: _Space, image: Field) -> Field:
    """Paint the dark horns with the bright plexus, which is as bright as a lesion."""
    size = space.rng.uniform(0.8, 1.25)
    for side in (-1, 1):
        front = space.ball((0.11 * side, -0.22, 0.10), (0.08 * size, 0.20, 0.19 * size))
        back = space.ball((0.17 * side, 0.26, 0.08), (0.09 * size, 0.24, 0.18 * size))
        horns = np.minimum(front, back) + 0.012 * space.noise(0.12)
        image = _over(image, _INTENSITY["csf"], share=space.inside(horns))
        plexus = space.ball((0.19 * side, 0.32, 0.06), (0.035, 0.08, 0.06)) + 0.012 * space.noise(0.08)
        image = _over(image, _INTENSITY["vessel"] * space.rng.uniform(0.75, 1.0), share=space.inside(plexus))
    third = space.ball((0.0, 0.06, -0.14), (0.025 * size, 0.16, 0.12))
    return _over(image, _INTENSITY["csf"], share=space.inside(third))


def _paint_vessels(space: _Space, image: Field, *, edge: Field) -> Field:
    """Paint the sinus at the back and vessels near the surface, all bright after contrast."""
    sinus = np.hypot(space.x, edge / 1.2) - 0.045
    sinus = np.where(space.y > -0.2, sinus, 1.0)
    image = _over(image, _INTENSITY["vessel"] * 0.95, share=space.inside(sinus))
    for _ in range(int(space.rng.integers(12, 18))):
        angle, height = space.rng.uniform(0, 2 * np.pi), space.rng.uniform(-0.6, 0.7)
        lean, bow = space.rng.normal(0, 0.5, 2)
        depth = space.rng.uniform(0.03, 0.2)
        along = space.z - height
        across = np.arctan2(space.y, space.x) - angle - lean * along - bow * along**2
        across = 0.75 * np.abs((across + np.pi) % (2 * np.pi) - np.pi)
        tube = np.sqrt(across**2 + (edge + depth + 0.1 * along) ** 2) - 0.022
        reach = np.abs(along) - space.rng.uniform(0.12, 0.35)
        brightness = _INTENSITY["vessel"] * space.rng.uniform(0.8, 1.0)
        image = _over(image, brightness, share=space.inside(np.maximum(tube, reach)))
    return image


def _paint_lesions(space: _Space, image: Field, *, edge: Field) -> tuple[Field, Labels]:
    """Paint one to three lesions: an enhancing body in a dark oedema; large ones have a dark core."""
    label = np.zeros(image.shape, np.uint8)
    for number in range(int(space.rng.integers(1, 4))):
        radius = space.rng.uniform(0.17, 0.30) if number == 0 else space.rng.uniform(0.09, 0.18)
        centre = _site(space, edge, radius=radius)
        radii = tuple(radius * space.rng.uniform(0.8, 1.2, 3))
        body = (
            space.ball(centre, radii) + 0.12 * radius * space.noise(0.12) + 0.06 * radius * space.noise(0.05)
        )
        body = np.maximum(body, edge + 0.03)
        swelling = body - space.rng.uniform(0.06, 0.16) + 0.03 * space.noise(0.1)
        within = space.inside(edge + 0.05)
        image = _over(image, 0.42, share=0.8 * space.inside(swelling) * within)
        brightness = _INTENSITY["white"] * space.rng.uniform(1.1, 1.45)
        image = _over(image, brightness * (1 + 0.05 * space.noise(0.06)), share=space.inside(body))
        label[_half(space.inside(body))] = 1
        if radius > 0.16:
            core = body + radius * space.rng.uniform(0.25, 0.42)
            image = _over(image, space.rng.uniform(0.22, 0.36), share=space.inside(core))
            label[_half(space.inside(core))] = 2
    return image, label


def _site(space: _Space, edge: Field, *, radius: float) -> tuple[float, ...]:
    """Draw a centre inside the brain, inside the slab and off the midline."""
    fits = (edge < -0.6 * radius - 0.06) & (np.abs(space.x) > 0.16)
    margin = max(2, round(radius / space.step[2] * 0.7))
    fits[:, :, :margin] = fits[:, :, -margin:] = False
    index = space.rng.choice(np.flatnonzero(fits))
    return tuple(float(axis.flat[index]) for axis in (space.x, space.y, space.z))


def _scan(space: _Space, image: Field) -> Int16[np.ndarray, "x y z"]:
    """Apply the blur of a finite matrix, the shading of a coil and the noise of a magnitude image."""
    image = ndimage.gaussian_filter(image, (0.45, 0.45, 0.3))
    image = image * np.exp(0.14 * space.noise(0.7)) * (1 + 0.03 * space.noise(0.1))
    level = space.rng.uniform(0.015, 0.035)
    first, second = space.rng.normal(0, level, (2, *image.shape))
    gain = _GAIN * space.rng.uniform(0.7, 1.4)
    return np.asarray(np.rint(gain * np.hypot(image + first, second)), np.int16)


def _over(image: Field, value: Field | float, *, share: Field) -> Field:
    return np.asarray(image + share * (value - image))


def _half(share: Field) -> Bool[np.ndarray, "x y z"]:
    return np.asarray(share > 0.5)
