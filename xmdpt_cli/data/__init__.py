"""Reading a prepared dataset: samples, batches, samplers, streaming."""
