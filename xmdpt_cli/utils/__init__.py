"""Small helpers without a home in one stage of the workflow."""
