"""Everything a recipe does, for Python and the command line alike."""
