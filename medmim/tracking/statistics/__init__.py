"""Statistics: bootstrap intervals, the paired test, multiple testing, mask evenness."""
