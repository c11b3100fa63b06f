"""Data sets, one file each, and the arrays on disk that they become."""
