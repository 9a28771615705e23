"""A classifier: the coarsest level, pooled, and a linear layer."""
