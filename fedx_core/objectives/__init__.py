"""What a local step minimises, a file each; with labels or without."""
