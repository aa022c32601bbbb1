"""S11: passwords are stored so that an attacker with the database cannot try them fast."""

import re
import threading
import time
from collections.abc import Iterator

import pytest

from app import passwords
from app.errors import Unavailable

PARAMETERS = re.compile(r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$[\w+/]{22}\$[\w+/]{43}")


@pytest.mark.parametrize(
    "stored", [passwords.hashed("word"), passwords.NOBODYS], ids=["hashed", "nobodys"]
)
def test_s11_hashes_are_argon2id_with_owasps_minimum_parameters(stored: str) -> None:
    """The same goes for the dummy hash: a try costs the same if there is no password."""
    found = PARAMETERS.fullmatch(stored)
    assert found
    assert [int(one) for one in found.groups()] == [19_456, 2, 1]


def test_s11_the_same_password_is_stored_in_another_way_each_time() -> None:
    one, other = passwords.hashed("word"), passwords.hashed("word")
    assert one != other
    assert passwords.matches(one, "word")
    assert passwords.matches(other, "word")


@pytest.mark.parametrize(
    "wrong", ["", "Word", "word ", " word", "word\0", "wor", "wordword", "w" * 1024, "w" * 10_000]
)
def test_s11_every_character_counts(wrong: str) -> None:
    assert not passwords.matches(passwords.hashed("word"), wrong)


def test_s11_nothing_is_cut_off_a_long_one() -> None:
    stored = passwords.hashed("é" * 1023 + "a")
    assert passwords.matches(stored, "é" * 1023 + "a")
    assert not passwords.matches(stored, "é" * 1023 + "b")


def test_s11_an_accent_is_the_same_from_every_keyboard() -> None:
    assert passwords.matches(passwords.hashed("caf\u00e9"), "cafe\u0301")
    assert not passwords.matches(passwords.hashed("caf\u00e9"), "cafe")


@pytest.mark.parametrize("given", ["", "word", passwords.NOBODYS])
def test_s11_without_a_password_no_try_is_right(given: str) -> None:
    assert not passwords.matches(None, given)


def test_s11_without_a_password_a_try_is_hashed_all_the_same(monkeypatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        passwords,
        "_hasher",
        type("", (), {"verify": lambda self, stored, _: asked.append(stored)})(),
    )
    passwords.matches(None, "word")
    assert asked == [passwords.NOBODYS]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """[running hashes, most at once]; each hash takes 0.2 s, unless the test ends before."""
    at_once: list[int] = [0, 0]
    lock, over = threading.Lock(), threading.Event()

    class Hasher:
        def hash(self, password: bytes) -> str:
            with lock:
                at_once[0] += 1
                at_once[1] = max(at_once)
            over.wait(0.2)
            with lock:
                at_once[0] -= 1
            return "hash"

    monkeypatch.setattr(passwords, "_hasher", Hasher())
    yield at_once
    over.set()


def test_s11_never_more_than_eight_at_once(slow: list[int]) -> None:
    threads = [threading.Thread(target=passwords.hashed, args=("word",)) for _ in range(30)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert slow == [0, 8]


def test_s11_waiting_too_long_for_a_turn_is_refused_as_unavailable(monkeypatch) -> None:
    room = threading.BoundedSemaphore(1)
    room.acquire()
    monkeypatch.setattr(passwords, "_room", room)
    monkeypatch.setattr(passwords, "WAIT_SECONDS", 0.05)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        passwords.hashed("word")
    assert time.monotonic() - began < 1
