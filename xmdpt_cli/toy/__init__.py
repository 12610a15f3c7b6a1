"""All that is not real: synthetic people, toy encoders, metrics of both."""
