"""Export to Larq Compute Engine: lint, conversion, comparison with Keras, deploy bundle."""
