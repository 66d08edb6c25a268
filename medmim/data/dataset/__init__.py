"""The dataset folder: manifest, splits, integrity, contamination, duplicates, channels and boxes."""
