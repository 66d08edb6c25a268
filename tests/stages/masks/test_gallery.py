"""The masks stage: statistics and a gallery on a neutral grid, a dataset's volume or a file."""

import io

import matplotlib.image
import numpy as np
import pytest
import tiny
import torch

from medmim.data.dataset.manifest import read_dataset
from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image
from medmim.errors import DataError, ShapeError, UsageError
from medmim.masks import MASKS, build_mask, hidden_count
from medmim.masks.statistics import mask_statistics
from medmim.stages.masks.gallery import (
    MaskBackground,
    background_from_dataset,
    background_from_file,
    draw_masks,
)


@pytest.fixture
def drawn(tmp_path):
    """A function that draws with defaults for what is not given."""

    def draw(names=("mesh", "random"), ratios=(0.5, 0.75), *, background=None, dims=None, grid=None, seed=0):
        return draw_masks(
            names, ratios, dims=dims, grid=grid, background=background, seed=seed, out=tmp_path / "m.png"
        )

    return draw


def pixels(made):
    return matplotlib.image.imread(io.BytesIO(made.picture.read_bytes()))


@pytest.mark.parametrize(("dims", "grid"), [(None, (14, 14)), (2, (14, 14)), (3, (12, 12, 12))])
def test_neutral_grids(drawn, dims, grid):
    made = drawn(dims=dims)
    assert made.grid == grid
    assert [(entry.mask, entry.statistics.requested_ratio) for entry in made.entries] == [
        (name, ratio) for name in ("mesh", "random") for ratio in (0.5, 0.75)
    ]
    for entry in made.entries:
        assert entry.hidden.shape == grid
        assert entry.hidden.sum() == hidden_count(entry.hidden.numel(), entry.statistics.requested_ratio)
        assert entry.statistics.tissue_hidden is None
        assert entry.analysis is None


@pytest.mark.parametrize(
    ("given", "grid"), [((7,), (7, 7)), ((7, 5), (7, 5)), ((4, 6, 5), (4, 6, 5))], ids=str
)
def test_the_grid_determines_the_number_of_axes(drawn, given, grid):
    assert drawn(grid=given).grid == grid


def test_a_grid_must_fit_the_axes(drawn):
    with pytest.raises(ShapeError, match=r"^--grid: expected one or 3 positive sizes, got 7×5$"):
        drawn(dims=3, grid=(7, 5))


def test_the_picture_shows_the_masks(drawn):
    # the share of dark pixels follows the ratio
    shares = []
    for ratio in (0.25, 0.5, 0.75):
        image = pixels(drawn(["random"], [ratio], grid=(10, 10)))[..., :3]
        dark = (np.abs(image - np.array([0x24, 0x47, 0x6B]) / 255).max(axis=-1) < 0.1).sum()
        light = (np.abs(image - np.array([0xF6, 0xF1, 0xE4]) / 255).max(axis=-1) < 0.02).sum()
        shares.append(dark / (dark + light))
    np.testing.assert_allclose(shares, (0.25, 0.5, 0.75), atol=0.05)


@pytest.mark.parametrize("dims", [2, 3])
def test_every_mask_has_its_row(drawn, dims):
    heights = [pixels(drawn(names, [0.5], dims=dims)).shape[0] for names in (["mesh"], tuple(MASKS))]
    assert heights[1] > 0.7 * len(MASKS) * (heights[0] - 100)


def test_equal_seeds_give_equal_files(drawn):
    first = drawn(seed=1).picture.read_bytes()
    assert drawn(seed=1).picture.read_bytes() == first
    assert drawn(seed=2).picture.read_bytes() != first


def test_a_mask_does_not_depend_on_which_others_are_drawn(drawn):
    alone, beside = drawn(["random"], [0.75]), drawn()
    assert torch.equal(alone.entries[0].hidden, beside.entries[3].hidden)


def test_json_holds_masks_and_cards(drawn):
    content = drawn(grid=(3, 4)).as_json()
    assert content["grid"] == [3, 4]
    assert content["picture"].endswith("m.png")
    for row in content["masks"]:
        assert sum(map(sum, row["hidden"])) == hidden_count(12, row["ratio"])
        assert row["card"]["realised_ratio"] == pytest.approx(hidden_count(12, row["ratio"]) / 12, abs=1e-6)


def test_a_volume_of_a_dataset(tiny_dataset, drawn):
    background = background_from_dataset(tiny_dataset, volume=None, dims=None)
    assert background.image.shape == tiny.SHAPE
    assert background.label is not None
    made = drawn(background=background)
    assert made.grid == (10, 8, 8)  # cells of 2 mm
    measured = made.entries[0].statistics
    assert 0.3 < measured.tissue_hidden < 0.7
    assert 0.3 < measured.lesion_hidden < 0.7
    assert measured.lesion_lost == 0


def test_several_volumes_of_a_dataset_are_analysed_and_a_named_one_alone(tiny_dataset, drawn):
    several = background_from_dataset(tiny_dataset, volume=None, dims=None)
    alone = background_from_dataset(tiny_dataset, volume=read_dataset(tiny_dataset).volumes[0].id, dims=2)
    assert [len(several.scans), len(alone.scans)] == [8, 1]
    assert torch.equal(alone.scans[0], alone.image)
    rows = [drawn(["grid"], [0.25], background=one).as_json()["masks"] for one in (several, alone)]
    first, second = (row[0]["analysis"] for row in rows)
    assert first != second
    assert 0 < first["reuse_similarity"] < 1
    assert 0 < first["f_score"] < 1


def test_a_named_volume(tiny_dataset):
    rows = read_dataset(tiny_dataset).volumes
    first, last = (
        background_from_dataset(tiny_dataset, volume=row.id, dims=3) for row in (rows[0], rows[-1])
    )
    assert not torch.equal(first.image, last.image)
    with pytest.raises(
        UsageError, match=r"^--volume: no volume '.*' among the 10 of '.*'; see its manifest$"
    ):
        background_from_dataset(tiny_dataset, volume="nobody", dims=3)


def test_a_slice_is_chosen_through_the_label(tiny_dataset, drawn):
    background = background_from_dataset(tiny_dataset, volume=None, dims=2)
    assert background.image.shape == tiny.SHAPE[:2]
    assert (background.label > 0).sum() > 10
    assert drawn(background=background, grid=(5, 4)).grid == (5, 4)


def test_an_unlabelled_dataset(unlabelled_dataset, drawn):
    found = drawn(background=background_from_dataset(unlabelled_dataset, volume=None, dims=None)).entries[0]
    assert found.statistics.lesion_hidden is None
    assert found.analysis is not None


def nifti(tmp_path, array, *, spacing=(1.0, 1.0, 1.0), orientation="RAS"):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(encode_image(Image(array, tiny.affine_of(orientation, spacing, array.shape))))
    return path


def test_a_file_is_reoriented_to_ras(tmp_path):
    array = np.zeros((6, 8, 10), dtype=np.float32)
    array[0, 1, 2] = 1.0
    array[5, 7, 9] = 2.0
    background = background_from_file(
        nifti(tmp_path, array, spacing=(1.0, 2.0, 3.0), orientation="PIL"), dims=None
    )
    assert background.image.shape == (10, 6, 8)
    assert background.spacing_mm == pytest.approx((3.0, 1.0, 2.0))
    # towards the left, back and feet in the file: from the other end along each axis
    assert background.image[9 - 2, 5 - 0, 7 - 1] == 1.0
    assert background.image[0, 0, 0] == 2.0


def test_a_file_in_two_dimensions_gives_the_middle_slice(tmp_path, drawn):
    array = np.random.default_rng(0).normal(size=(12, 12, 5)).astype(np.float32)
    background = background_from_file(nifti(tmp_path, array, spacing=(1.0, 1.0, 4.0)), dims=2)
    np.testing.assert_array_equal(background.image.numpy(), array[:, :, 2])
    assert drawn(background=background).grid == (12, 12)


def test_a_file_that_cannot_be_used(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"no volume")
    with pytest.raises(DataError, match=r"^--image: "):
        background_from_file(path, dims=None)
    with pytest.raises(DataError, match=r"^--image: file cannot be read"):
        background_from_file(tmp_path / "absent.nii.gz", dims=None)


def test_a_file_without_contrast(tmp_path):
    with pytest.raises(DataError, match=r"^--image: "):
        background_from_file(nifti(tmp_path, np.ones((4, 4, 4), dtype=np.float32)), dims=None)


def test_a_background_is_cropped_to_whole_cells_on_both_sides(drawn):
    image = torch.zeros(11, 10)
    image[:2], image[9:] = 1.0, 1.0  # cut away: 11 voxels make 3 cells of 3
    image[4, 4] = 1.0
    made = drawn(background=MaskBackground(image, None, (1.0, 1.0)), grid=(3, 5))
    assert made.entries[0].statistics.tissue_hidden > 0
    assert made.grid == (3, 5)


def test_thin_axes_have_cells_too(drawn):
    image = torch.rand(96, 96, 10, generator=torch.Generator().manual_seed(0))
    assert drawn(background=MaskBackground(image, None, (1.0, 1.0, 1.0))).grid == (12, 12, 4)


def test_grids_finer_than_the_image_are_rejected(drawn):
    background = MaskBackground(torch.rand(10, 10), None, (1.0, 1.0))
    message = (
        r"^--grid 12,5: expected at most one cell per voxel, and the scan has 10×10; use a coarser grid$"
    )
    with pytest.raises(ShapeError, match=message):
        drawn(background=background, grid=(12, 5))


def test_nothing_is_written_for_invalid_arguments(drawn, tmp_path):
    wrong = ((["mesh", "mehs"], [0.5], "did you mean 'mesh'"), (["mesh"], [0.5, 1.5], "1.5"))
    for names, ratios, message in wrong:
        with pytest.raises(UsageError, match=message):
            drawn(names, ratios)
    assert not (tmp_path / "m.png").exists()


def test_statistics_are_means_over_several_draws(drawn):
    entry = drawn(["random"], [0.5]).entries[0]
    assert entry.statistics != mask_statistics(entry.hidden.unsqueeze(0), requested_ratio=0.5)
    assert build_mask("random", ratio=0.5).ratio == entry.statistics.requested_ratio
