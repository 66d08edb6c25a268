"""Metrics, intervals, figures, and what is measured while an encoder is pretrained."""
