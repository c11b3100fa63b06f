"""Values in, figure out: one pure function a figure. Only this package imports matplotlib.

curves       accuracy per round and against MiB
layers       units kept and pruned, and how their scores are distributed
stability    how far masks agree
traffic      bytes by client and direction
clients      labels by client
atlas        examples by country
pictures     images beside what they are explained by
style        what all share: palette, fonts, and files with equal bytes for equal figures
"""

from flows.figures.curves import accuracy, accuracy_by_bytes, accuracy_by_round

__all__ = ["accuracy", "accuracy_by_bytes", "accuracy_by_round"]
