"""Readers of labelled videos and images: the data sets on disk and their registry."""
