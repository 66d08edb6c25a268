"""Statistics of comparisons: the paired test with its interval, multiple testing, mask evenness."""
