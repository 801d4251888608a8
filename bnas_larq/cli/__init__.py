"""The command line: one file per command group, connecting parts that work alone from Python."""
