"""toolrl: train language models to call tools well, and prove it."""

__version__ = "0.1.0"
