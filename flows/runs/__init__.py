"""A run's folder: what lies where, what is written while it goes, and reading it again."""
