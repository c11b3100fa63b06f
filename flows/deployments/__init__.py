"""The flows that are deployed, and what they say on Prefect's pages."""
