"""A client's part of a round, the plan that all train by, and how both sides use a codec."""
