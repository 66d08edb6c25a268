"""Non-finite values: found, named, survived."""
