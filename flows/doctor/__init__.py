"""What a run, a data set or a site needs and lacks."""
