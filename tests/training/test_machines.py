"""The machines that a recipe is made for."""

from __future__ import annotations

import torch

from medmim.training.machines import MACHINES, machine_for


def test_a_machine_is_found_by_name_and_auto_is_this_one() -> None:
    """Without a GPU, `auto` is the laptop."""
    assert machine_for("gpu_24gb") is MACHINES["gpu_24gb"]
    assert machine_for("auto").gpu == torch.cuda.is_available()
