"""File formats, one module each: NIfTI, images, NumPy archives, annotation files; and safe opening."""
