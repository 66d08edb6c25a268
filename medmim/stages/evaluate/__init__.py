"""`medmim evaluate`: a trained model, or predictions, scored on another labelled dataset."""
