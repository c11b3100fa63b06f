"""Models: one entry each in the catalogue, for any number of bands and classes."""
