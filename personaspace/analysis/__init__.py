"""Statistics, from activations and answers alone."""
