"""Training states on disk, and how a run continues from one."""
