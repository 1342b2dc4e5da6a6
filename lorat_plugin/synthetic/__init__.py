"""Training pairs rendered from cut-outs, photos and shapes."""
