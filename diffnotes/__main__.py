"""`python -m diffnotes`: train, sample and evaluate the networks of this book (see `training.commands`)."""

import sys
import warnings

from diffnotes.training.commands import main

if __name__ == "__main__":
    warnings.formatwarning = lambda message, *_, **__: f"diffnotes: {message}\n"
    main(sys.argv[1:])
