"""Stage of `medmim study`: run a grid of trainings and compare them in one report."""
