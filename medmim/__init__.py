"""medmim: from a folder of scans to a segmenter that is compared fairly, by masked image modelling."""

__version__ = "0.1.0"

__all__ = ["__version__"]
