"""`medmim export`: a model or an encoder for other tools."""
