"""`medmim plan`: predicted memory and hours of a run."""
