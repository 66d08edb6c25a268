"""Statistics of comparisons: paired test, variance of seeds, power, multiple testing, mask evenness."""
