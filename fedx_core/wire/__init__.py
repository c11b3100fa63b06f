"""What passes between server and clients, and what each value of it may be."""
