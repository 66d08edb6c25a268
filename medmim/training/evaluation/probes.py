"""Probes of features: nearest-neighbour and linear classifiers, effective rank and mean cosine."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

Rows = Float[np.ndarray, "rows width"]
Numbers = Int[np.ndarray, " rows"]

_NEIGHBOURS = 10


def nearest(train: Rows, classes: Numbers) -> Any:
    """Return a fitted k-nearest-neighbour classifier with cosine distance and distance weights."""
    count = min(_NEIGHBOURS, len(train))
    return KNeighborsClassifier(count, metric="cosine", weights="distance").fit(train, classes)


def linear(train: Rows, classes: Numbers, *, strength: float = 1e-2, weights: Any = None) -> Any:
    """Return a fitted logistic regression on standardised features; classes are balanced without weights."""
    balance = "balanced" if weights is None else None
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, class_weight=balance, max_iter=200, random_state=0)
    )
    with warnings.catch_warnings():  # monitors do not need full convergence
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(train, classes, logisticregression__sample_weight=weights)


def macro_f1(truth: Numbers, found: Numbers) -> float:
    """Return the mean F1 of the classes present in the truth."""
    return float(f1_score(truth, found, labels=np.unique(truth), average="macro", zero_division=0))


def mean_dice(truth: Numbers, found: Numbers) -> float:
    """Return the mean Dice of the foreground classes present in the truth, over all voxels pooled."""
    values = [value for value in np.unique(truth) if value > 0]
    return float(f1_score(truth, found, labels=values, average="macro", zero_division=0))


def effective_rank(features: Float[Tensor, "rows width"]) -> float:
    """Return the effective rank of centred features (Roy and Vetterli, EUSIPCO 2007).

    The exponential of the entropy of the normalised singular values; 1 for collinear features.
    """
    centred = features.double() - features.double().mean(dim=0)
    values = torch.linalg.svdvals(centred)
    if not values.sum() > 0:
        return 1.0
    shares = values / values.sum()
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def mean_cosine(features: Float[Tensor, "rows width"]) -> float:
    """Return the mean cosine similarity between different rows; 1 when all point in the same direction."""
    count = len(features)
    if count < 2:
        return 0.0
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    return float((unit.sum(dim=0).square().sum() - unit.square().sum()) / (count * (count - 1)))
