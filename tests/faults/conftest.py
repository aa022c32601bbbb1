"""One whole Beeline that most of the faults happen to: starting one takes longer than many of them.

And for the sweeps a prefix of each test's own in the bucket, so that it can count what lies there.
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from flask import Flask

from app.extensions import storage
from app.gateways import storage as gateway
from app.services import upkeep
from tests.faults.sweeping import Bucket
from tests.lab.lab import Lab, running

Configure = Callable[..., None]


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


@pytest.fixture
def bucket(app: Flask, configure: Configure, monkeypatch) -> Bucket:
    """A prefix of the test's own; everything in it counts as old."""
    prefix = f"sweeps-{secrets.token_hex(6)}/"
    configure(s3_prefix=prefix)
    monkeypatch.setattr(storage, "_settings", replace(storage._settings, s3_prefix=prefix))
    monkeypatch.setattr(upkeep, "ORPHAN_FOR", timedelta(minutes=-5))
    monkeypatch.setattr(upkeep, "UNKNOWN_FOR", timedelta(minutes=-5))
    return Bucket(prefix)


@pytest.fixture
def small_pages(monkeypatch) -> None:
    """As if storage gave 7 entries a page, and the sweeps took 7 at a time."""
    monkeypatch.setattr(gateway, "PAGE_SIZE", 7)
    for name in ("BATCH", "EXPIRE_BATCH", "REMOVE_BATCH", "DELETE_BATCH"):
        monkeypatch.setattr(upkeep, name, 7)
