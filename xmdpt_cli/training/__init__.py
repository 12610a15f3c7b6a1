"""Training of X-MDPT: state, step, loop, checkpoints, validation."""
