"""Families of models, one file each: how they are built, pruned and explained."""
