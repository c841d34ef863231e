"""Records, text, models and mathematics of o1coder-jax. Imports nothing else of the project."""

__version__ = "0.1.0"
