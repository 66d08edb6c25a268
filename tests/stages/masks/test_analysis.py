"""MaskAnyNet's analysis of masks against plain loops, and its choice of encoder."""

import math

import numpy as np
import pytest
import torch

from medmim.encoders import build_encoder
from medmim.errors import RunError, UsageError
from medmim.heads.transfer import PREFIX
from medmim.masks import build_mask
from medmim.methods.two_branch_encoder import canvas_of
from medmim.stages.masks.analysis import IMAGES, MaskAnalyzer, small
from medmim.training.weights import save_weights

GRIDS = {2: (6, 4), 3: (4, 3, 2)}
CELLS = {2: (4, 5), 3: (4, 4, 6)}
both_dims = pytest.mark.parametrize("dims", [2, 3])


def scans(dims, count=3):
    space = [n * c for n, c in zip(GRIDS[dims], CELLS[dims], strict=True)]
    generator = torch.Generator().manual_seed(dims)
    return [1000 * (number + torch.rand(space, generator=generator)) for number in range(count)]


def masks(dims, *, ratio=0.4, rule="random"):
    return build_mask(rule, ratio=ratio).sample(IMAGES, GRIDS[dims], generator=torch.Generator())


def pieces(image, hidden, cell):
    """Return the masked image and, row by row, the voxels of the hidden cells."""
    masked, found = image.copy(), []
    for place in np.argwhere(hidden):
        window = tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, cell, strict=True))
        found.append(image[window].copy())
        masked[window] = 0
    return masked, found


def entropy(values, ends):
    counts = [0] * 64
    for value in values.ravel():
        counts[min(int((value - ends[0]) / (ends[1] - ends[0]) * 64), 63)] += 1
    return -sum(n / values.size * math.log2(n / values.size) for n in counts if n)


def pooled(encoder, images):
    with torch.no_grad():
        maps = encoder.eval()(images)
    return torch.cat([one.flatten(2).mean(dim=2) for one in maps], dim=1)[0].double().numpy()


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def kept(folder, *, dims=2, name="vit", told=None, **options):
    """Write the weights of an encoder as a run does; return it and the file."""
    torch.manual_seed(5)
    encoder = build_encoder(name, spatial_dims=dims, in_channels=1, **options)
    about = {"spatial_dims": dims, "in_channels": 1, "encoder": name, "encoder_options": options}
    about |= {"size": [16] * dims, "view": "patch"}
    weights = {PREFIX + key: value for key, value in encoder.state_dict().items()}
    return encoder, save_weights(folder, weights, about if told is None else told)


@both_dims
def test_equals_plain_loops(dims, tmp_path):
    # patches of single cells, so that nothing is scaled
    words = {"patch": CELLS[dims], "width": 12, "depth": 2, "heads": 2}
    encoder, weights = kept(tmp_path, dims=dims, **words)
    analyzer, hidden = MaskAnalyzer(scans(dims), GRIDS[dims], weights=weights), masks(dims)
    rows = []
    for image, where in zip(analyzer.images, hidden.numpy(), strict=True):
        own = image[0].double().numpy()
        ends, whole = (own.min(), own.max()), entropy(own, (own.min(), own.max()))
        masked, found = pieces(own, where, CELLS[dims])
        reuse = reuse_image(found, where, hidden.numpy(), CELLS[dims])
        seen = [pooled(encoder, torch.from_numpy(one).float()[None, None]) for one in (own, masked, reuse)]
        bits, alike = [entropy(one, ends) for one in (masked, reuse)], [cosine(seen[0], s) for s in seen[1:]]
        share = min(1.0, bits[1] / whole)
        score = 2 * share * alike[1] / (share + alike[1])
        rows.append((bits[0] - whole, bits[1] - whole, *alike, score))
    result = analyzer.analyze(hidden)
    assert list(result.as_json().values()) == pytest.approx(np.mean(rows, axis=0).tolist(), abs=2e-6)


def rows_without_gaps(where):
    """Return hidden cells' places without empty rows, columns and slices; None for scattered cells."""
    places = np.argwhere(where)
    used = [sorted(set(places[:, axis])) for axis in range(where.ndim)]
    sides = tuple(len(along) for along in used)
    if len(places) < 0.5 * np.prod(sides) or np.prod(sides) == where.size:
        return None
    return sides, [tuple(along.index(n) for along, n in zip(used, place, strict=True)) for place in places]


def reuse_image(found, where, hidden, cell):
    """Lay the pieces out on the common canvas of the batch: with their geometry, or one after the other."""
    kept = [rows_without_gaps(one) for one in hidden]
    scattered = max(
        [int(one.sum()) for one, rows in zip(hidden, kept, strict=True) if rows is None], default=0
    )
    sides = [canvas_of(where.shape, scattered), *(rows[0] for rows in kept if rows)]
    canvas = tuple(max(lengths) for lengths in zip(*sides, strict=True))
    reuse = np.zeros([n * c for n, c in zip(canvas, cell, strict=True)])
    rows = rows_without_gaps(where)
    places = rows[1] if rows else [np.unravel_index(number, canvas) for number in range(len(found))]
    for place, piece in zip(places, found, strict=True):
        reuse[tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, cell, strict=True))] = piece
    return reuse


@both_dims
def test_statistics_at_the_extreme_ratios(dims):
    analyzer = MaskAnalyzer(scans(dims), GRIDS[dims])
    nothing = torch.zeros(IMAGES, *GRIDS[dims], dtype=torch.bool)
    masked = analyzer.analyze(nothing)
    assert (masked.masked_entropy, masked.masked_similarity) == pytest.approx((0, 1), abs=1e-6)
    reuse = analyzer.analyze(~nothing)
    assert (reuse.reuse_entropy, reuse.reuse_similarity, reuse.f_score) == pytest.approx((0, 1, 1), abs=1e-6)
    assert reuse.masked_entropy < -1


@both_dims
def test_similarity_falls_with_the_ratio(dims):
    analyzer = MaskAnalyzer(scans(dims), GRIDS[dims])
    little, much = (analyzer.analyze(masks(dims, ratio=ratio)).masked_similarity for ratio in (0.1, 0.9))
    assert 1 > little > much


def test_random_weights_are_reproducible_and_keep_the_random_state():
    hidden, state = masks(2), torch.get_rng_state()
    first = MaskAnalyzer(scans(2), GRIDS[2]).analyze(hidden)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    assert MaskAnalyzer(scans(2), GRIDS[2]).analyze(hidden) == first


def test_every_scan_is_looked_at_in_turn():
    few, many = MaskAnalyzer(scans(2), GRIDS[2]), MaskAnalyzer(scans(2, count=IMAGES + 2), GRIDS[2])
    assert torch.equal(few.images[0], few.images[3])
    assert not torch.equal(few.images[0], few.images[1])
    assert [len(few.images), len(many.images)] == [IMAGES, IMAGES + 2]


def test_large_scans_are_scaled_down_to_whole_cells():
    large = torch.rand(500, 300, generator=torch.Generator())
    assert small(large).shape == (128, 128)
    analyzer = MaskAnalyzer([large], (14, 14))
    assert tuple(analyzer.images.shape[2:]) == (126, 126)
    assert analyzer.images.mean().item() == pytest.approx(0, abs=1e-5)
    assert analyzer.images[0].std().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["dynunet", "swin"])
def test_images_are_enlarged_for_encoders_with_large_strides(tmp_path, name):
    _, weights = kept(tmp_path, name=name)
    found = MaskAnalyzer(scans(2), GRIDS[2], weights=weights).analyze(masks(2))
    assert 0 < found.reuse_similarity < 1


def test_weights_of_other_dimensions_or_without_an_encoder_are_rejected(tmp_path):
    _, weights = kept(tmp_path / "a", dims=3, patch=4, width=12, depth=1, heads=2)
    with pytest.raises(UsageError, match=r"^--model: expected an encoder for masks of 2 axes, got one for 3"):
        MaskAnalyzer(scans(2), GRIDS[2], weights=weights)
    _, nameless = kept(tmp_path / "b", told={"kind": "x"}, patch=4, width=12, depth=1, heads=2)
    with pytest.raises(RunError, match=r"do not describe their encoder"):
        MaskAnalyzer(scans(2), GRIDS[2], weights=nameless)


def test_a_scan_without_contrast_gives_finite_numbers():
    found = MaskAnalyzer([torch.ones(24, 20)], GRIDS[2]).analyze(masks(2)).as_json()
    assert all(math.isfinite(value) for value in found.values())
