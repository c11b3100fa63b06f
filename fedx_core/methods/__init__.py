"""Federated methods, one file each, each saying only where it differs from FedAvg."""
