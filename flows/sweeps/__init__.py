"""Many runs from one grid, and what came of them over seeds."""
