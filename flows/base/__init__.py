"""Exit codes, tables, CSV, log lines and progress: what all commands and flows share."""
