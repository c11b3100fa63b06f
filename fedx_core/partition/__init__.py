"""Rules that split labels (and countries) into clients, one file each."""
