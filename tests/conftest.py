"""What every test stands on: seeded draws, hypothesis without surprises, and a reason where a GPU is missing.

Shapes and dtypes in the package's annotations are checked at every call: pyproject.toml passes pytest the import hook.
"""

import os
import re
from collections.abc import Iterator

import hypothesis
import jaxtyping
import pytest
import torch

# The default draws the same examples at every run, so that a red test is red for everyone. To look for new ones:
# HYPOTHESIS_PROFILE=explore. No deadline: two busy cores are no reason to fail.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# With several processes (make test), the tests of such a module are taken by one: what they share is slow to make.
SHARING = ("test_explore.py", "test_probes.py", "test_jupyterlab.py", "test_distributed.py", "test_classifier.py")


@pytest.hookimpl(optionalhook=True)  # pytest-xdist need not be there
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    from xdist.scheduler import LoadScopeScheduling

    class Schedule(LoadScopeScheduling):
        """What shares something slow stays together; all other tests are taken one by one."""

        def _split_scope(self, nodeid: str) -> str:
            path, _, test = nodeid.partition("::")
            if path.endswith((".ipynb", *SHARING)):  # the cells of a notebook share a kernel
                return path
            # the tests of a page share a browser that has loaded it
            page = re.search(r"book/(0\d-[a-z]+(-deeper)?|[a-z]+)", test)
            return page[0] if page else nodeid

    return Schedule(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # the slow ones first, so that no process waits for one at the end
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none"))


@pytest.fixture(autouse=True)
def _the_same_start_for_every_test():
    """The global generator starts alike in every test, and a test leaves torch's settings as they were."""
    torch.manual_seed(0)
    before = torch.get_default_dtype(), torch.is_grad_enabled()
    yield
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == before


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread: sums have the same order everywhere, and small networks do not wait for a second core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of its own for the test, seeded."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def no_shape_checks() -> Iterator[None]:
    """Switch the run-time check of the annotations off, to see the ValueError that a user without it sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
