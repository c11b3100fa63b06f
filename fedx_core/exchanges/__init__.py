"""How models travel: a file for each choice of what clients send of them."""
