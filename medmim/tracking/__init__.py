"""Tracking of runs in MLflow, their comparison with its statistics, and the model registry.

MLflow reads its switches when it is imported, so they are set here: no telemetry, no log lines about itself.
"""

from __future__ import annotations

import logging
import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
for _noisy in ("mlflow", "alembic"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # logs SQL with its values
