"""Runs side by side: rows for tables, points for figures."""
