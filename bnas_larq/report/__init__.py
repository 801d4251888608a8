"""Pictures of cells and runs, reports of runs (HTML), comparisons and layer studies."""
