"""What a forward changes besides gradients, put back when its step is not taken."""

from __future__ import annotations

from torch import nn

from medmim.methods import Method


class ModuleSnapshot:
    """A module before a step: its buffers; what a method notes for after the step begins empty.

    Args:
        module: what is trained.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._buffers = [buffer.clone() for buffer in module.buffers()]

    def restore(self) -> None:
        """Put running statistics back, and let methods forget what they noted."""
        for buffer, before in zip(self._module.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        for part in self._module.modules():
            if isinstance(part, Method):
                part.discard_pending()
