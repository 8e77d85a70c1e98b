"""limberlm: does a chain of post-training stages wear a language model out? Measure it, with intervals."""

__version__ = "0.1.0"
