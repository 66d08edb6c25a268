"""Settings: what a run and a study can be told, and how YAML, flags and `--set` become one of them."""
