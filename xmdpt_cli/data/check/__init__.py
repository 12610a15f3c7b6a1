"""Is a prepared dataset whole, and what mends it."""
