"""What is added to a client's local steps: a file for each rule."""
