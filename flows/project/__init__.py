"""What ``fedx init`` writes; links lead to the files of the same name above."""
