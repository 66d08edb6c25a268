"""What doctor says about cards that are described, not present: driver, architecture and remedy."""

import pytest

from medmim.stages.doctor.graphics_cards import Card, Graphics, check_graphics, graphics_of_this_machine

VOLTA, HOPPER = Card("Tesla V100", 34.4, (7, 0)), Card("H200", 150.0, (9, 0))
BLACKWELL, KEPLER = Card("RTX 5090", 34.2, (12, 0)), Card("Tesla K20", 5.0, (3, 5))
NEW, OLD = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120"), ("sm_50", "sm_70", "sm_80", "sm_90")
CU126 = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126"


def judge(*cards, driver="580.95.05", cuda="13.0", built_for=NEW):
    return check_graphics(Graphics(cards, driver, cuda, built_for, threads=2))


def test_usable_cards_are_named_with_architecture_driver_and_build():
    check = judge(HOPPER)
    assert check.status == "ok"
    assert check.found == "H200 150 GB, sm_90; driver 580.95.05, torch built for CUDA 13.0"
    assert judge(Card("A40", 48.0, (8, 6))).status == "ok"  # code of sm_80 runs on sm_86
    assert judge(BLACKWELL, built_for=(*OLD, "compute_90")).status == "ok"  # PTX is compiled for newer cards
    assert judge(VOLTA, built_for=("sm_80", "compute_80")).status == "bad"  # and not for older ones
    assert "driver unknown" in judge(HOPPER, driver=None).found


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


@pytest.mark.parametrize(
    ("driver", "cuda", "status", "advice"),
    [
        (None, None, "note", "training runs on the CPU"),
        (
            "580.95.05",
            None,
            "bad",
            "torch cannot use the GPU: pip install --force-reinstall torch (its default",
        ),
        ("550.54.15", None, "bad", f"torch cannot use the GPU: {CU126}"),
        ("550.54.15", "13.0", "bad", f"CUDA 13.0 needs driver 580.65.06 or newer: update it, or {CU126}"),
        ("470.82.01", "12.6", "bad", f"update the driver to 525.60.13 or newer, then {CU126}"),
        ("550.54.15", "12.6", "bad", "no GPU is visible: run nvidia-smi"),
    ],
)
def test_without_a_usable_card_driver_and_build_decide(driver, cuda, status, advice):
    check = judge(driver=driver, cuda=cuda)
    assert check.status == status
    assert advice in check.advice
    assert check.found.startswith("CPU, 2 threads")
    assert driver is None or f"NVIDIA driver {driver}" in check.found


def test_this_machine_can_be_asked():
    assert check_graphics(graphics_of_this_machine()).status in ("ok", "note", "bad")
