"""medmim: from a folder of scans to a segmenter that is compared fairly, by masked image modelling.

`import medmim` loads neither PyTorch nor MLflow; the names below are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medmim import masks, methods
    from medmim.api import (
        compare,
        evaluate,
        export,
        finetune,
        ingest,
        load_encoder,
        load_model,
        open_dataset,
        predict,
        pretrain,
        study,
    )
    from medmim.encoders import build_encoder, packed
    from medmim.masks import build_mask
    from medmim.methods import build_method

__version__ = "0.1.0"

_MODULES = {"masks": "medmim.masks", "methods": "medmim.methods", "packed": "medmim.encoders.packed"}
_BUILDERS = {
    "build_encoder": "medmim.encoders",
    "build_mask": "medmim.masks",
    "build_method": "medmim.methods",
}

__all__ = [
    "__version__",
    "build_encoder",
    "build_mask",
    "build_method",
    "compare",
    "evaluate",
    "export",
    "finetune",
    "ingest",
    "load_encoder",
    "load_model",
    "masks",
    "methods",
    "open_dataset",
    "packed",
    "predict",
    "pretrain",
    "study",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in __all__:
        return getattr(importlib.import_module(_BUILDERS.get(name, "medmim.api")), name)
    raise AttributeError(f"module 'medmim' has no attribute '{name}'")


def __dir__() -> list[str]:
    return list(__all__)
