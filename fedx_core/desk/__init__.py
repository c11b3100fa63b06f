"""What a stage works with: the plan that all follow, the desk, and a client's place at it."""
