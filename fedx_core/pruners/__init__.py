"""How a model loses what it can do without: a file for each way to choose masks."""
