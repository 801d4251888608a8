"""Final networks: genotype and size in, Keras model out; their files and optimizers."""
