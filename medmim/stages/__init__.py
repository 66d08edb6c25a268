"""What each command does, one file a command; the only place that puts parts together."""
