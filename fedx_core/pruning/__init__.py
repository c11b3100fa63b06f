"""Masks, units of a model, when and how much is pruned, and models without their dead units."""
