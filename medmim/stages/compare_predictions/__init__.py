"""`medmim compare --predictions`: compare the predictions of any tools with labels."""
