"""`medmim finetune`: a task head on an encoder."""
