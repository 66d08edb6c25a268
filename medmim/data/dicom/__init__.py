"""DICOM: headers, pixel data, conversion of slices to volumes, labels, and written segmentations."""
