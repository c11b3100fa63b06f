"""What to run within a budget: candidates, what they cost, short trials of them, and a choice."""
