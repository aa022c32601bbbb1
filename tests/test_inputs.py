"""Validating input: all errors together, by full path; unknown fields are refused."""

import enum
from typing import Any

import pytest

from app.errors import Invalid
from app.inputs import Inputs

BAD_PATHS = [
    "", " ", "/etc/passwd", "../up", "a/../b", "a//b", "a/", "./a", "a/.", "C:\\x", "c:/x", "nul\0", "a\nb",
    "\x1b[0m", "\x85", "x" * 256, "é" * 128, "a/" * 999 + "toolong", "\ud800", None, 3, ["a"], {"a": 1},
]  # fmt: skip
GOOD_PATHS = [
    "a", "a b", "dir/a", "x" * 255, "é" * 127, "emoji 😀", "עברית", ".hidden", "..a", "a..", "quo\"te'",
    "back\\slash", "\u202eoverride", " lead", "C:", "%00", "<b>",
]  # fmt: skip


def complaints(given: Any, read: Any) -> dict[str, str]:
    try:
        with Inputs(given) as inputs:
            read(inputs)
    except Invalid as error:
        return error.fields
    return {}


@pytest.mark.parametrize("path", BAD_PATHS, ids=repr)
def test_unsafe_paths_are_refused(path: Any) -> None:
    assert list(complaints({"path": path}, lambda i: i.path("path"))) == ["path"]


@pytest.mark.parametrize("path", GOOD_PATHS, ids=repr)
def test_ordinary_paths_are_kept_byte_for_byte(path: str) -> None:
    with Inputs({"path": path}) as given:
        assert given.path("path") == path


@pytest.mark.parametrize("value", [-1, 11, 1.5, "5", True, [], {}, 10**400, float("inf")])
def test_what_is_no_whole_number_in_range_is_refused(value: Any) -> None:
    assert list(complaints({"n": value}, lambda i: i.whole("n", least=0, most=10))) == ["n"]


@pytest.mark.parametrize("value", [0, 10, 3.0])
def test_whole_numbers_are_accepted(value: Any) -> None:
    assert complaints({"n": value}, lambda i: i.whole("n", least=0, most=10)) == {}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "2030-01-31",
        "2030-01-31T12:00",
        "2030-02-31T12:00:00Z",
        5,
        "9999-12-31T23:59:59-23:59",
    ],
)
def test_instants_need_a_zone_and_must_exist(value: Any) -> None:
    assert list(complaints({"at": value}, lambda i: i.instant("at"))) == ["at"]


@pytest.mark.parametrize(
    "value", ["2030-01-31T12:00:00Z", "2030-01-31t12:00:00.123+02:00", "2030-01-31 12:00:00z"]
)
def test_instants_are_converted_to_utc(value: str) -> None:
    with Inputs({"at": value}) as given:
        assert given.instant("at").utcoffset().total_seconds() == 0


@pytest.mark.parametrize(
    ("said", "kept"), [("a\r\nb", "a\nb"), ("a\n\r\n\tb", "a\n\n\tb"), ("a\rb", None), ("\r", None)]
)
def test_lines_may_end_as_windows_ends_them(said: str, kept: str | None) -> None:
    def read(given: Inputs) -> None:
        assert given.text("message", longest=5, lines=True) == (kept or "")

    assert list(complaints({"message": said}, read)) == ([] if kept else ["message"])


def test_all_errors_come_together_by_full_path_and_for_unknown_fields_too() -> None:
    """S08."""

    def read(given: Inputs) -> None:
        given.text("title", longest=3)
        given.each(
            "files", lambda f: (f.path("path"), f.whole("size", least=0, most=9)), least=1, most=2
        )

    body = {
        "title": "long",
        "files": [{"path": "..", "size": 1}, {"size": -1, "extra": 1}],
        "evil": 1,
    }
    assert complaints(body, read) == {
        "title": "must be at most 3 characters",
        "files.0.path": "must not contain empty parts, . or ..",
        "files.1.path": "is required",
        "files.1.size": "must be from 0 to 9",
        "files.1.extra": "is not a known field",
        "evil": "is not a known field",
    }


@pytest.mark.parametrize("body", [None, [], "x", 5, [{}]])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    assert "body" in complaints(body, lambda i: None)


@pytest.mark.parametrize("items", ["x", {}, [], [1, 2, 3], [1], [None]])
def test_wrong_lists_are_refused(items: Any) -> None:
    assert complaints(
        {"l": items}, lambda i: i.each("l", lambda one: one.path("p"), least=1, most=2)
    )


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


def test_lists_of_texts_and_of_known_words_are_read() -> None:
    body = {"texts": ["a", "b"], "colours": ["blue"], "none": None}
    with Inputs(body) as given:
        assert given.texts("texts", longest=1, most=2) == ["a", "b"]
        assert given.some_of("colours", list(Colour)) == [Colour.BLUE]
        assert given.texts("none", longest=1, most=2) == []
        assert given.some_of("none", list(Colour)) is None
        assert given.some_of("absent", list(Colour)) is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"texts": "a"}, "texts"),
        ({"texts": ["a", "b", "c"]}, "texts"),
        ({"texts": ["a", 5]}, "texts.1"),
        ({"texts": [""]}, "texts.0"),
        ({"texts": [None]}, "texts.0"),
        ({"texts": ["ab"]}, "texts.0"),
        ({"texts": ["\n"]}, "texts.0"),
        ({"texts": ["\ud800"]}, "texts.0"),
        ({"colours": "red"}, "colours"),
        ({"colours": {}}, "colours"),
        ({"colours": ["red", "green"]}, "colours.1"),
        ({"colours": [["red"]]}, "colours.0"),
        ({"colours": ["red"] * 3}, "colours"),
    ],
)
def test_wrong_lists_of_texts_and_of_known_words_are_refused(
    body: dict[str, Any], field: str
) -> None:
    def read(given: Inputs) -> None:
        given.texts("texts", longest=1, most=2)
        given.some_of("colours", list(Colour))

    assert list(complaints(body, read)) == [field]
