"""`medmim predict`: a registered model on new scans."""
