"""What is kept of a run: its journal, states and memories as bytes, and both ledgers."""
