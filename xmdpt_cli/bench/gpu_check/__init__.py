"""What ``examples/gpu_check.py`` runs: is everything right on this GPU, and how fast.

``parts`` lists what is checked; ``runner`` runs each part in a process of its own, which is ended
at its time limit; ``child`` is that process; ``write`` makes the report. The other modules are the
parts: generators of rows.
"""
