"""`python -m diffnotes`: train, sample and evaluate the networks of this book (see `training.commands`)."""

import sys
import warnings

from diffnotes.training.options import one_line

if __name__ == "__main__":
    warnings.formatwarning = lambda message, *_, **__: f"diffnotes: {message}\n"
    with one_line("diffnotes"):
        from diffnotes.training.commands import main  # here, as torch takes seconds in which one may press Ctrl-C

        main(sys.argv[1:])
