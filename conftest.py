"""For every run of pytest here: the share of the cores, and what `--nbval` compares of a notebook's saved outputs."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores, and so do the kernels that they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# nbval runs every code cell and compares each output with the saved one, as text. PNG and JPEG it leaves out: their
# bytes differ between builds of the drawing libraries. Here the same is done to pictures *inside* an HTML output (the
# frames of a player), so that the rest of the HTML is compared and not skipped as a whole.
EMBEDDED_PICTURE = r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=\\\s]*"


def pytest_collectstart(collector: pytest.Collector) -> None:
    if hasattr(collector, "sanitize_patterns"):  # a notebook
        collector.sanitize_patterns[EMBEDDED_PICTURE] = "a picture"
