"""Which process a NaN began in, when several share a step."""

import pytest

from medmim.training.nonfinite.diagnosis import Finding, Layer, joined

CONV, NORM = Layer(0, "conv"), Layer(1, "norm")
CASES = {
    # a norm over all voxels carries the second one's NaN to the first
    "layer": ([Finding(True, NORM, None, ("a",)), Finding(True, CONV, None, ("b",))], CONV, ("b",)),
    "both": ([Finding(True, CONV, None, ("a",)), Finding(True, CONV, None, ("b",))], CONV, ("a", "b")),
    "loss": ([Finding(False, None, "w", ("a",)), Finding(True, None, "w", ("b", "c"))], None, ("b", "c")),
    "gradient": ([Finding(False, None, "w", ("a",)), Finding(False, None, "w", ("b",))], None, ("a", "b")),
}


@pytest.mark.parametrize(("found", "layer", "volumes"), CASES.values(), ids=CASES)
def test_the_process_where_it_began_is_named(found, layer, volumes):
    whole = joined(found)
    assert (whole.layer, whole.volumes) == (layer, volumes)
    assert joined(found[::-1]).loss == whole.loss
    assert f"with volumes {', '.join(volumes)} in the batch" in str(whole)


def test_finite_gradients_whose_norm_is_not_are_told():
    found = Finding(loss=False, layer=None, gradient=None, volumes=("a",))
    assert str(found) == "the gradient is not finite, in the norm of all, with volumes a in the batch"
