"""Image metrics and the evaluation protocols of the literature."""
