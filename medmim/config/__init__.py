"""Settings of runs and studies: their types and defaults, and the merging of YAML, flags and `--set`."""
