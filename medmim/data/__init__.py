"""Data: from a folder of DICOM or NIfTI files to a dataset folder of checked volumes, and to batches."""
