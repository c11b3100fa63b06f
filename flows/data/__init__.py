"""The stages that prepare data, and what a data set holds in words."""
