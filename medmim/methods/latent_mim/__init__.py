"""Latent MIM (arXiv 2407.15837): predicts features of the hidden patches."""
