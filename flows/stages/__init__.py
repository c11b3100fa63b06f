"""The stages that run and score the experiment of ``params.yaml``."""
