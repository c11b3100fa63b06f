"""One run from what was asked to what came of it, going on with it, and going back."""
