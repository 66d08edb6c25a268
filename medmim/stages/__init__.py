"""What each command does, one file or folder per command; the only layer that combines the others."""
