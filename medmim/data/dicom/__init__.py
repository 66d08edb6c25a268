"""DICOM: headers, pixel data, slices to volumes, labels in, segmentations out."""
