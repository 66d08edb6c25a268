"""Lets the tests of stages use the DICOM maker of the tests of data."""
