"""Workspaces, sequences and runs of the VOT toolkit."""
