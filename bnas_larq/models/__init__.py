"""Models: the supernet, networks built from genotypes, and their cost."""
