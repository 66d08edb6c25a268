"""What was learnt: the recorder of runs on MLflow, comparison of runs, and its report."""
