"""Dataset folder to batches: preprocessing, disk cache, patches, views and augmentation."""
