"""Criteria that score units, one file each, all measured after BatchNorm."""
