"""`medmim masks`: a gallery of masks and their statistics."""
