"""Synthetic people, rendered by program."""
