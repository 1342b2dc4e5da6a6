"""Training: from a pair of frames to updated weights."""
