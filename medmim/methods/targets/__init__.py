"""What a method predicts: pixels, HOG, or features of an EMA encoder."""
