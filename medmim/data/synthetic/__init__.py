"""Generated anatomy and DICOM phantoms, for `medmim demo` and the tests."""
