"""Choices, presets, and what forms and the shell offer."""
