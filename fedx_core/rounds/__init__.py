"""The server's part: a run's start, its rounds step by step, and going back."""
