"""The words by which an asset is found. No I/O here.

They are cut here and not by PostgreSQL's parser, which takes "photo-2024.jpg" for the name of a
host, and knows letters only by the database's locale.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Text, cast, func

_WORD = re.compile(r"[^\W_]+")
# A lexeme has at most 2046 bytes; nobody types the end of such a word.
LONGEST_WORD = 200
MOST_WORDS_ASKED = 20


def vector(name: str, content_type: str, tags: Iterable[str]) -> ColumnElement[Any]:
    """What is searched of an asset of this name, type and these tags."""
    known = sorted(set(_words(" ".join((name, content_type, *tags)))))
    return func.array_to_tsvector(cast(known, ARRAY(Text)))


def query(text: str) -> str:
    """Every word of the text as the beginning of one, as a tsquery is written."""
    # They hold letters and figures only, so there is nothing to escape.
    return " & ".join(f"'{word}':*" for word in _words(text)[:MOST_WORDS_ASKED])


def _words(text: str) -> list[str]:
    """In order, in small letters, and the same however their accents were typed."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [word[:LONGEST_WORD] for word in _WORD.findall(plain)]
