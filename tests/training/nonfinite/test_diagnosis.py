"""Tests that the process in which a NaN originated is identified when several share a step."""

import pytest

from medmim.training.nonfinite.diagnosis import NonFiniteFinding, NonFiniteLayer, joined

CONV, NORM = NonFiniteLayer(0, "conv"), NonFiniteLayer(1, "norm")
CASES = {
    # a norm over all voxels propagates the NaN of the second process to the first
    "layer": (
        [NonFiniteFinding(True, NORM, None, ("a",)), NonFiniteFinding(True, CONV, None, ("b",))],
        CONV,
        ("b",),
    ),
    "both": (
        [NonFiniteFinding(True, CONV, None, ("a",)), NonFiniteFinding(True, CONV, None, ("b",))],
        CONV,
        ("a", "b"),
    ),
    "loss": (
        [NonFiniteFinding(False, None, "w", ("a",)), NonFiniteFinding(True, None, "w", ("b", "c"))],
        None,
        ("b", "c"),
    ),
    "gradient": (
        [NonFiniteFinding(False, None, "w", ("a",)), NonFiniteFinding(False, None, "w", ("b",))],
        None,
        ("a", "b"),
    ),
}


@pytest.mark.parametrize(("found", "layer", "volumes"), CASES.values(), ids=CASES)
def test_the_process_of_origin_is_named(found, layer, volumes):
    whole = joined(found)
    assert (whole.layer, whole.volumes) == (layer, volumes)
    assert joined(found[::-1]).loss == whole.loss
    assert f"with volumes {', '.join(volumes)} in the batch" in str(whole)


def test_finite_gradients_with_a_non_finite_norm_are_reported():
    found = NonFiniteFinding(loss=False, layer=None, gradient=None, volumes=("a",))
    assert str(found) == "the gradient is not finite, in the norm of all, with volumes a in the batch"
