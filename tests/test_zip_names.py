"""Names in a zip: safe ones are kept, others made harmless; all are unique (S21)."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.zip_names import names_in_zip
from tests.test_dispositions import NAMES
from tests.threats.test_names import MORE_NAMES


@pytest.mark.parametrize(
    "path",
    [
        "a.txt",
        "Wedding/Day 1/IMG_0001.JPG",
        "Ümläut 日本.txt",
        "e\u0301.txt",
        "dots.in.name.tar.gz",
    ],
)
def test_a_harmless_path_stays_byte_for_byte(path: str) -> None:
    assert names_in_zip([path]) == [path]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("/abs", "abs"),
        ("a/./b", "a/b"),
        ("a\\..\\b", "a/b"),
        ("c:\\x", "c_/x"),
        ("..", "file"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("console.log", "console.log"),
        ("ends. ", "ends"),
        ('a<b>c:d"e|f?g*h', "a_b_c_d_e_f_g_h"),
        ("gpj.\u202eexe", "gpj.exe"),
        ("new\nline", "newline"),
        ("日" * 251 + ".txt", "日" * 83 + ".txt"),
        ("dir/" + "a" * 300, "dir/" + "a" * 255),
        ("a." + "b" * 300, "a." + "b" * 253),
        ("a" * 250 + " " * 9 + "b", "a" * 250),
    ],
)
def test_s21_what_could_do_harm_is_replaced(path: str, name: str) -> None:
    assert names_in_zip([path]) == [name]


def test_s21_no_two_names_are_the_same_where_case_is_ignored() -> None:
    paths = [
        "a.txt",
        "A.TXT",
        "a (2).txt",
        "e\u0301",
        "\u00e9",
        ".env",
        ".ENV",
        "dir",
        "dir/x",
        "DIR/X",
    ]
    names = names_in_zip(paths)
    assert names == [
        "a.txt", "A (2).TXT", "a (2) (2).txt", "e\u0301", "\u00e9 (2)", ".env", ".ENV (2)",
        "dir (2)", "dir/x", "DIR/X (2)",
    ]  # fmt: skip


def test_a_number_makes_no_name_too_long_and_ten_thousand_equal_names_are_fast() -> None:
    long = "ä" * 125 + ".txt"
    names = names_in_zip([long.upper(), *[long] * 3])
    assert max(len(name.encode()) for name in names) <= 255
    assert len({name.casefold() for name in names_in_zip(["x.bin"] * 10_000)}) == 10_000


# No deadline: a busy machine is not a failure.
@settings(deadline=None)
@given(st.lists(st.text(max_size=20), max_size=12))
def test_whatever_they_are_called_the_names_are_safe_and_unique(paths: list[str]) -> None:
    names = names_in_zip(paths)
    seen = [unicodedata.normalize("NFC", name.casefold()) for name in names]
    assert len(set(seen)) == len(paths)
    for name in names:
        pieces = name.split("/")
        assert all(piece.strip(". ") and piece == piece.rstrip(". ") for piece in pieces)
        assert not any(char in name for char in '\\<>:"|?*\0\n')
    folders = {
        "/".join(one.split("/")[:at]) for one in seen for at in range(1, len(one.split("/")))
    }
    assert not folders & set(seen)


@pytest.mark.parametrize("name", NAMES + MORE_NAMES)
def test_s21_hostile_names_stay_inside(name: str) -> None:
    (made,) = names_in_zip([name])
    assert made
    assert not made.startswith("/")
    assert ".." not in made.split("/")
