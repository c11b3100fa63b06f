"""Runs that go on elsewhere: followed, listed, ended."""
