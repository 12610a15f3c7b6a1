"""xmdpt: pose-guided person image synthesis with cross-view masked diffusion transformers."""

__version__ = "0.1.0"
