"""The checks of ``examples/gpu_check.py``: correctness and speed on one GPU.

``parts`` lists what is checked; ``runner`` runs each part in its own process (``child``) with a
time limit; ``rows`` holds the rows of the report. The other modules are the parts: generators of
rows.
"""
