"""Training pairs made on the training device."""
