"""Thin adapters between the tracker and other people's benchmark toolkits, one file for each toolkit."""
