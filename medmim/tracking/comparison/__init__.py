"""Comparison of fine-tuning runs: arms, contrasts, findings, report, and promotion of a champion."""
