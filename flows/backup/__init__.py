"""Copies of runs and of what makes somebody a coordinator or a site, in one file, and back again.

``archive`` is the file, what may stand in it and how it is checked; ``gather`` says what goes in,
``restore`` where it goes when it comes out.
"""
