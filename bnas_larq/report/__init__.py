"""Pictures of cells and runs, and the report that gathers them in one HTML file."""
