"""Train, fine-tune and fairly judge deep-learning quantitative susceptibility mapping."""

__version__ = "0.1.0"
