"""Facts of the training images, from the manifest."""

from __future__ import annotations

import tiny

from medmim.data.loading.training_facts import facts_of


def test_facts_follow_the_axes_of_the_body_not_of_the_file() -> None:
    """A volume stored as superior, left, posterior is described as right, anterior, superior."""
    facts = facts_of([tiny.row(shape=(20, 30, 40), orientation="SLP", spacing=(3.0, 1.0, 2.0))], dims=3)
    assert facts.shape == (30, 40, 20)
    assert facts.spacing_mm == (1.0, 2.0, 3.0)


def test_a_slice_has_the_two_axes_of_smaller_spacing_whatever_the_orientation_of_a_volume() -> None:
    """Sagittal and axial volumes are both described by their slices."""
    axial = tiny.row(shape=(30, 40, 5), spacing=(1.0, 1.0, 6.0))
    sagittal = tiny.row(shape=(5, 30, 40), spacing=(6.0, 1.0, 1.0))
    facts = facts_of([axial, sagittal], dims=2)
    assert (facts.shape, facts.spacing_mm) == ((30, 40), (1.0, 1.0))
