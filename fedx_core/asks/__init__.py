"""What a server may ask of its clients: what is done there, and what comes back."""
