"""What a server may do for its model after pruning, one rule a file; it costs no byte."""
