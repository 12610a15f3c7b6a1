"""Synthetic people, toy encoders, and metrics for synthetic people."""
