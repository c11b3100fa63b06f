"""Models without their dead units: the same function, from fewer weights.

A unit that pruning holds at zero feeds nothing: its row, what it owns beside it and the columns
that read it can go. What is left is a smaller model with the same names, whose outputs, gradients
and optimiser steps are the masked model's. ``values`` cuts and grows state dicts, ``model`` builds
the module, ``layers`` are its parts.
"""
