"""`medmim study`: a grid of trainings, compared in one report."""
