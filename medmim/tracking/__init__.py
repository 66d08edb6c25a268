"""Tracking of runs in MLflow, their comparison with its statistics, and the model registry.

MLflow's environment variables are set before its import: no telemetry, no progress bars of downloads, no
printed addresses of runs, and none of its log lines. A variable that the user has set is kept.
"""

from __future__ import annotations

import logging
import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
for _noisy in ("mlflow", "alembic"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # logs SQL with its values
