"""`medmim pretrain`: masked pretraining of an encoder."""
