"""`medmim bench`: speed and memory on this machine."""
