"""The package behind the book *From DDPM to DDIM*: one module per idea, to be read beside its chapter."""

__version__ = "0.3.0"
