"""A trained model distilled into a faster one of the same architecture."""
