"""The command line `lorat`."""
