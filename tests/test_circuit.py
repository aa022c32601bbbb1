"""The circuit breaker: a service that is down gets a pause, then one try at a time."""

import pytest

from app.circuit import Circuit


class Away(Exception):
    """The error that opens the circuit."""


class Now:
    """A clock that only moves when a test sets it."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def circuit(now: Now) -> Circuit:
    return Circuit(3.0, clock=now)


def call(circuit: Circuit, error: Exception | None = None) -> str:
    """The outcome of one call, which fails with `error` or works."""
    asked = False
    try:
        with circuit.guard((Away,), Away("not asked")):
            asked = True
            if error:
                raise error
    except Exception:
        return "failed" if asked else "refused"
    return "worked"


def test_after_a_failure_calls_are_refused_for_a_while(circuit: Circuit, now: Now) -> None:
    assert call(circuit, Away()) == "failed"
    now.seconds += 2.9
    assert call(circuit) == "refused"
    now.seconds += 0.1
    assert call(circuit) == "worked"
    assert call(circuit) == "worked"


def test_one_tries_while_the_others_are_still_refused(circuit: Circuit, now: Now) -> None:
    call(circuit, Away())
    now.seconds += 3
    with circuit.guard((Away,), Away()):
        assert call(circuit) == "refused"
    assert call(circuit) == "worked"


def test_a_try_that_never_ends_does_not_keep_it_open(circuit: Circuit, now: Now) -> None:
    call(circuit, Away())
    now.seconds += 3
    with circuit.guard((Away,), Away()):
        now.seconds += 3
        assert call(circuit) == "worked"


def test_other_errors_do_not_open_it(circuit: Circuit) -> None:
    """Only outages open the circuit: a service that refuses a request is up."""
    assert call(circuit, ValueError()) == "failed"
    assert call(circuit) == "worked"


def test_a_try_that_is_refused_closes_it_as_one_that_works(circuit: Circuit, now: Now) -> None:
    """Such as a look at an object that is not there: the service has answered."""
    call(circuit, Away())
    now.seconds += 3
    assert call(circuit, ValueError()) == "failed"
    assert call(circuit) == "worked"


def test_a_failing_try_opens_it_again(circuit: Circuit, now: Now) -> None:
    call(circuit, Away())
    now.seconds += 3
    assert call(circuit, Away()) == "failed"
    now.seconds += 2.9
    assert call(circuit) == "refused"
