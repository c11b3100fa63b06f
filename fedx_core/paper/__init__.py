"""The tables of the FedX paper that are counted, not measured."""
