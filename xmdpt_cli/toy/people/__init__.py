"""Synthetic people, drawn by program."""
