"""Check NVIDIA cards: whether this PyTorch runs on them, and if not, which build or driver does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from packaging.version import Version

from medmim.errors import counted
from medmim.operating_system import driver_is_of_windows, nvidia_driver
from medmim.stages.doctor import Check

_GB = 1e9
_NAME = "devices"
# oldest driver for programs of any CUDA version of a major number: NVIDIA, CUDA release notes and
# "minor version compatibility"; from CUDA 13 on the notes name none for Windows
_OLDEST_DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
_OLDEST_DRIVERS_OF_WINDOWS = {11: "452.39", 12: "528.33"}
_TABLE = "https://docs.nvidia.com/cuda/cuda-toolkit-release-notes"
# PyTorch's build for cards from sm_50 to sm_90 and for older drivers; PyTorch 2.15 has none (pytorch#190385)
_OLD_CUDA = 12
_INSTALL_OLD_BUILD = (
    "pip install --force-reinstall 'torch<2.15' --index-url https://download.pytorch.org/whl/cu126"
)
_OLDEST_CARD, _NEWEST_OF_OLD_BUILD = (5, 0), (9, 0)


@dataclass(frozen=True)
class Card:
    """One NVIDIA card, with its compute capability."""

    name: str
    memory_gb: float
    capability: tuple[int, int]

    @property
    def architecture(self) -> str:
        """Name of the architecture, such as sm_90."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


@dataclass(frozen=True)
class Graphics:
    """What is known about the cards, the driver and the PyTorch of a machine.

    Attributes:
        cards: those that PyTorch can use.
        driver: version of the NVIDIA driver; None without one, empty if it cannot be read.
        cuda: version of CUDA for which PyTorch was built; None: for the CPU, or for other cards.
        built_for: architectures for which PyTorch was built, such as sm_80.
        threads: of computing on the CPU.
        of_windows: whether the driver is that of Windows, which has other version numbers.
    """

    cards: tuple[Card, ...]
    driver: str | None
    cuda: str | None
    built_for: Sequence[str]
    threads: int
    of_windows: bool = False

    @property
    def oldest_driver(self) -> str | None:
        """Oldest driver for the CUDA version of PyTorch; None if that is unknown."""
        table = _OLDEST_DRIVERS_OF_WINDOWS if self.of_windows else _OLDEST_DRIVERS
        return table.get(int(self.cuda.split(".")[0])) if self.cuda else None

    @property
    def drivers(self) -> str:
        """The driver found and the oldest one for this PyTorch."""
        found = self.driver or "of unknown version"
        if not self.cuda:
            return f"driver {found}, torch built for {'no version of CUDA' if self.cards else 'CPU'}"
        needed = f"needs {self.oldest_driver} or newer" if self.oldest_driver else "minimum driver unknown"
        return f"driver {found}, torch built for CUDA {self.cuda} ({needed})"


def graphics_of_this_machine() -> Graphics:
    """Query PyTorch and the driver."""
    usable = torch.cuda.is_available()
    found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())] if usable else []
    cards = tuple(Card(one.name, one.total_memory / _GB, (one.major, one.minor)) for one in found)
    built = torch.cuda.get_arch_list() if usable else ()
    threads = torch.get_num_threads()
    return Graphics(cards, nvidia_driver(), torch.version.cuda, built, threads, driver_is_of_windows())


def check_graphics(found: Graphics) -> Check:
    """Name cards, driver and architecture, and what to install if PyTorch cannot use them."""
    if found.cards:
        return _check_cards(found)
    cpu = f"CPU, {counted(found.threads, 'thread')}"
    if found.driver is None:
        advice = "training runs on the CPU; for an NVIDIA GPU, install its driver and a CUDA build of torch"
        return Check(_NAME, "note", cpu, advice)
    shown = f"{cpu}; NVIDIA {found.drivers}"
    if not found.driver:
        advice = (
            "training runs on the CPU: the driver does not answer; run nvidia-smi, restart the machine after "
            "an update of the driver, or install it again"
        )
        return Check(_NAME, "note", shown, advice)
    return Check(_NAME, "bad", shown, _without_card(found, found.driver))


def _without_card(found: Graphics, driver: str) -> str:
    """Return why PyTorch uses no card although there is a driver, and what to do."""
    if found.cuda is None:
        return f"torch cannot use the GPU: {_install_for(driver, of_windows=found.of_windows)}"
    oldest = found.oldest_driver
    if oldest and Version(driver) < Version(oldest):
        other = _install_for(driver, of_windows=found.of_windows)
        return f"CUDA {found.cuda} needs driver {oldest} or newer: update it, or {other}"
    unsure = "" if oldest else f"compare the driver with {_TABLE} (CUDA {found.cuda} is not known here); "
    return (
        f"no GPU is visible: {unsure}run nvidia-smi, look at CUDA_VISIBLE_DEVICES, and start containers with "
        "--gpus all (docker) or --nv (apptainer)"
    )


def _check_cards(found: Graphics) -> Check:
    cards = ", ".join(f"{one.name} {one.memory_gb:.0f} GB, {one.architecture}" for one in found.cards)
    foreign = [one for one in found.cards if found.built_for and not _runs_on(one, found.built_for)]
    if not foreign:
        return Check(_NAME, "ok", f"{cards}; {found.drivers}")
    shown = f"{cards}; {found.drivers}, {', '.join(found.built_for)}"
    return Check(_NAME, "bad", shown, f"torch cannot use {foreign[0].name}: {_build_for(foreign[0])}")


def _runs_on(card: Card, built_for: Sequence[str]) -> bool:
    """Return whether code built for some architectures runs on a card.

    Machine code (sm_80) runs on cards of the same major version, PTX (compute_80) on all newer ones.
    """
    for one in built_for:
        if found := re.match(r"(sm|compute)_(\d+)(\d)", one):
            version = (int(found[2]), int(found[3]))
            same_major = version[0] == card.capability[0] or found[1] == "compute"
            if same_major and version <= card.capability:
                return True
    return False


def _build_for(card: Card) -> str:
    if card.capability < _OLDEST_CARD:
        return "no build of PyTorch supports this card: hide it with CUDA_VISIBLE_DEVICES"
    if card.capability <= _NEWEST_OF_OLD_BUILD:
        return _INSTALL_OLD_BUILD
    return (
        "it is newer than this build: pip install --upgrade torch (its default build), after a driver update"
    )


def _install_for(driver: str, *, of_windows: bool) -> str:
    """Return how to install the build of PyTorch that a driver can run."""
    known = _OLDEST_DRIVERS_OF_WINDOWS if of_windows else _OLDEST_DRIVERS
    if Version(driver) < Version(known[_OLD_CUDA]):
        return f"update the driver to {known[_OLD_CUDA]} or newer, then {_INSTALL_OLD_BUILD}"
    newest = max(_OLDEST_DRIVERS)
    if newest not in known:
        return (
            f"{_INSTALL_OLD_BUILD}; for newer builds, whose oldest driver is unknown, compare "
            f"{driver} with {_TABLE}"
        )
    if Version(driver) < Version(known[newest]):
        return _INSTALL_OLD_BUILD
    return "pip install --force-reinstall torch (its default build)"
