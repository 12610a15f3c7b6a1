"""All that is not real: synthetic people, toy encoders, measures of both."""
