"""Scans in: a folder of DICOM or NIfTI becomes a dataset folder of checked volumes, and then batches."""
