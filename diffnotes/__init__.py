"""The package under the book *From DDPM to DDIM*: one module per idea, read beside its chapter.

Time runs over 1..T and index 0 is the data, on the page and in every tensor.
"""

__version__ = "0.2.0"
