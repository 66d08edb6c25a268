"""Comparison of runs: findings, tables, figures, report, and the test that promotes a champion."""
