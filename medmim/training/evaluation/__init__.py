"""Metrics with confidence intervals, figures, and monitors of pretraining."""
