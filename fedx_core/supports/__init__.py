"""Which weights exist at all, one rule a file; both sides work it out, so it costs no byte."""
