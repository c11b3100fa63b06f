"""Where the server goes from the mean of what clients learned: a file for each optimiser."""
