"""One whole Beeline that most of the faults happen to: starting one takes longer than many of them."""

from collections.abc import Iterator

import pytest

from tests.lab.lab import Lab, running


@pytest.fixture(scope="package")
def shared_lab() -> Iterator[Lab]:
    """Two web processes, two workers and the clock, for tests that leave all of them as they are."""
    with running("web", "web.2", "worker", "worker.2", "clock") as started:
        yield started


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The shared one, whole again after each test."""
    yield shared_lab
    shared_lab.heal()
