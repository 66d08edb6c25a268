"""What doctor says about cards that are described, not present: driver, architecture and remedy."""

import pytest

from medmim.operating_system import nvidia_driver
from medmim.stages.doctor.graphics_cards import Card, Graphics, check_graphics, graphics_of_this_machine

VOLTA, HOPPER = Card("Tesla V100", 34.4, (7, 0)), Card("H200", 150.0, (9, 0))
BLACKWELL, KEPLER = Card("RTX 5090", 34.2, (12, 0)), Card("Tesla K20", 5.0, (3, 5))
NEW, OLD = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120"), ("sm_50", "sm_70", "sm_80", "sm_90")
CU126 = "pip install --force-reinstall 'torch<2.15' --index-url https://download.pytorch.org/whl/cu126"
TABLE = "https://docs.nvidia.com/cuda/cuda-toolkit-release-notes"


def judge(*cards, driver="580.95.05", cuda="13.0", built_for=NEW, of_windows=False):
    return check_graphics(Graphics(cards, driver, cuda, built_for, threads=2, of_windows=of_windows))


def test_usable_cards_are_named_with_architecture_driver_and_build():
    check = judge(HOPPER)
    assert check.status == "ok"
    assert check.found == (
        "H200 150 GB, sm_90; driver 580.95.05, torch built for CUDA 13.0 (needs 580.65.06 or newer)"
    )
    assert judge(Card("A40", 48.0, (8, 6))).status == "ok"  # code of sm_80 runs on sm_86
    assert judge(BLACKWELL, built_for=(*OLD, "compute_90")).status == "ok"  # PTX is compiled for newer cards
    assert judge(VOLTA, built_for=("sm_80", "compute_80")).status == "bad"  # and not for older ones
    assert "driver of unknown version" in judge(HOPPER, driver=None).found
    assert "torch built for no version of CUDA" in judge(HOPPER, driver=None, cuda=None).found


@pytest.mark.parametrize(
    ("card", "built_for", "advice"),
    [
        (VOLTA, NEW, f"torch cannot use Tesla V100: {CU126}"),
        (BLACKWELL, OLD, "it is newer than this build: pip install --upgrade torch"),
        (KEPLER, NEW, "no build of PyTorch supports this card"),
    ],
)
def test_a_card_outside_the_build_gets_the_build_that_fits(card, built_for, advice):
    check = judge(HOPPER, card, built_for=built_for)
    assert check.status == "bad"
    assert advice in check.advice
    assert card.architecture in check.found


DEFAULT = "pip install --force-reinstall torch (its default build)"


@pytest.mark.parametrize(
    ("driver", "cuda", "status", "found", "advice"),
    [
        (None, None, "note", "", "training runs on the CPU; for an NVIDIA GPU, install its driver"),
        ("", "13.0", "note", "driver of unknown version", "the driver does not answer; run nvidia-smi"),
        ("580.95.05", None, "bad", "built for CPU", f"torch cannot use the GPU: {DEFAULT}"),
        ("550.54.15", None, "bad", "built for CPU", f"torch cannot use the GPU: {CU126}"),
        (
            *("550.54.15", "13.2", "bad"),
            "driver 550.54.15, torch built for CUDA 13.2 (needs 580.65.06 or newer)",
            f"CUDA 13.2 needs driver 580.65.06 or newer: update it, or {CU126}",
        ),
        (
            *("470.82.01", "12.6", "bad"),
            "driver 470.82.01, torch built for CUDA 12.6 (needs 525.60.13 or newer)",
            f"update the driver to 525.60.13 or newer, then {CU126}",
        ),
        ("550.54.15", "12.6", "bad", "(needs 525.60.13 or newer)", "no GPU is visible: run nvidia-smi"),
        (
            *("610.43.02", "14.0", "bad", "(minimum driver unknown)"),
            f"no GPU is visible: compare the driver with {TABLE}",
        ),
    ],
)  # fmt: skip
def test_without_a_usable_card_driver_and_build_decide(driver, cuda, status, found, advice):
    check = judge(driver=driver, cuda=cuda)
    assert check.status == status
    assert advice in check.advice
    assert check.found.startswith("CPU, 2 threads")
    assert found in check.found


@pytest.mark.parametrize(
    ("driver", "cuda", "found", "advice"),
    [
        ("516.40", "12.6", "(needs 528.33 or newer)", "CUDA 12.6 needs driver 528.33 or newer: update it"),
        ("552.22", "12.6", "(needs 528.33 or newer)", "no GPU is visible: run nvidia-smi"),
        ("552.22", "13.2", "(minimum driver unknown)", f"no GPU is visible: compare the driver with {TABLE}"),
        (
            "552.22",
            None,
            "built for CPU",
            f"torch cannot use the GPU: {CU126}; for newer builds, whose oldest",
        ),
    ],
)
def test_drivers_of_windows_have_minima_of_their_own(driver, cuda, found, advice):
    check = judge(driver=driver, cuda=cuda, of_windows=True)
    assert found in check.found
    assert advice in check.advice


@pytest.mark.parametrize(
    ("printed", "code", "status", "found"),
    [
        ("550.54.15\n550.54.15\n", 0, "bad", "driver 550.54.15, torch built for CUDA 13.0 (needs 580.65.06"),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
            *(9, "note", "driver of unknown version"),
        ),
        (
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550.144\n",
            *(18, "note", "driver of unknown version"),
        ),
        ("[N/A]\n", 0, "note", "driver of unknown version"),
    ],
)
def test_what_nvidia_smi_prints_is_read(tmp_path, printed, code, status, found):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{printed}END\nexit {code}\n")
    program.chmod(0o755)
    check = judge(driver=nvidia_driver(tmp_path, str(program)))
    assert check.status == status
    assert found in check.found


def test_this_machine_can_be_asked():
    assert check_graphics(graphics_of_this_machine()).status in ("ok", "note", "bad")
