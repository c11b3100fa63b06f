"""Images with their labels, in memory and on disk, and what follows from their pixels."""
