"""The splits of a dataset."""

SPLITS = ("train", "test")
