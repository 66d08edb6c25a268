"""Worker processes with limits, in which files of unknown origin are parsed."""
