"""Training: one Lightning module for pretraining, one for fine-tuning, and what runs around them."""
