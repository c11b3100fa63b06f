"""How a model learns from examples, and what it scores on others."""
