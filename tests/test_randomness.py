"""Streams depend on what they are for and on nothing else."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medmim.randomness import numpy_stream, stream_seed, torch_stream

names = st.text("abc/_ 1", min_size=1, max_size=8)
counters = st.lists(st.integers(0, 20), max_size=3)
keys = st.tuples(st.integers(0, 20), names, counters)


@given(keys, keys)
def test_other_arguments_other_seed(first, second):
    seeds = [stream_seed(seed, name, *count) for seed, name, count in (first, second)]
    assert (seeds[0] == seeds[1]) == (first == second)


@given(keys)
def test_seeds_fit_both_libraries(key):
    seed, name, count = key
    assert 0 <= stream_seed(seed, name, *count) < 2**63
    torch_stream(seed, name, *count), numpy_stream(seed, name, *count)


def test_a_counter_is_not_part_of_the_name():
    assert stream_seed(0, "crop/1") != stream_seed(0, "crop", 1)
    assert stream_seed(0, "crop", 1, 2) != stream_seed(0, "crop", 12)
    assert stream_seed(1, "crop") != stream_seed(0, "1crop")


def test_streams_do_not_follow_the_global_seed_nor_move_it():
    torch.manual_seed(1)
    first = torch.rand(4, generator=torch_stream(0, "mask", 3))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(torch.rand(4, generator=torch_stream(0, "mask", 3)), first)
    assert torch.equal(torch.get_rng_state(), state)
    numpy_first = numpy_stream(0, "mask", 3).random(4)
    np.random.seed(0)
    assert np.array_equal(numpy_stream(0, "mask", 3).random(4), numpy_first)


def test_streams_are_independent_of_the_order_of_drawing():
    ahead = [torch.rand(3, generator=torch_stream(5, "crop", i)) for i in range(4)]
    behind = [torch.rand(3, generator=torch_stream(5, "crop", i)) for i in reversed(range(4))]
    assert all(torch.equal(a, b) for a, b in zip(ahead, reversed(behind), strict=True))


def test_neighbouring_streams_are_not_correlated():
    draws = np.stack([numpy_stream(0, "crop", i).standard_normal(2000) for i in range(8)])
    correlation = np.corrcoef(draws) - np.eye(8)
    assert np.abs(correlation).max() < 0.1


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_another_process_has_the_same_stream(hash_seed):
    program = "from medmim.randomness import stream_seed; print(stream_seed(7, 'mask', 1, 2))"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": hash_seed},
    )
    assert int(ran.stdout) == stream_seed(7, "mask", 1, 2)


def test_generators_live_on_the_cpu():
    with torch.device("meta"):
        assert torch_stream(0, "mask").device.type == "cpu"


def test_counters_may_be_numpys():
    assert stream_seed(0, "crop", int(np.int64(3))) == stream_seed(0, "crop", 3)
