"""How a finished run becomes a model that is shipped: what its card says of the training and of the score."""
