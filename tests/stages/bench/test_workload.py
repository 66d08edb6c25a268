"""Every variant of a benchmark runs, on the same weights and images."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from medmim.stages.bench.packed_vs_masked import default_setup
from medmim.stages.bench.workload import forward_of, growth_of, peak_of, workload


def small(dims=2, **changes):
    setup = default_setup(dims, "dynunet", size=(16,), batch=2, mask="random")
    return replace(setup, encoder_options={"filters": (4, 6, 8)}, **changes)


@pytest.mark.parametrize("part", ["encoder", "step"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_workload_runs_a_forward_and_backward_pass(part, precision, dims):
    case = small(dims, part=part, precision=precision, cell=(4,) * dims)
    for variant in ("packed", "masked", "dense", *(["official"] if part == "step" and dims == 2 else [])):
        run = workload(case, variant)
        run(), run()


def test_all_variants_share_weights_and_images():
    losses = []
    for variant in ("packed", "masked"):
        _, forward = forward_of(small(part="step", cell=(4, 4)), variant)
        losses.append(forward()[0].detach())
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


@pytest.mark.slow
def test_peak_memory_is_measured_in_a_fresh_process():
    case = small(3, size=(64,) * 3, cell=(4,) * 3, ratio=0.9)
    masked, packed = (peak_of(partial(workload, case, variant)) for variant in ("masked", "packed"))
    # one feature map of the first stage takes 8 MiB, and the masked variant keeps several
    assert masked > 16
    assert 0 < packed < masked
    assert growth_of(partial(workload, case, "packed")) >= 0
