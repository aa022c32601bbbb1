"""The words by which an asset is found. No I/O here.

They are split here and not by PostgreSQL's parser, which takes "photo-2024.jpg" for the name of a
host, and whose idea of a letter depends on the database's locale.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Text, cast, func

_WORD = re.compile(r"[^\W_]+")
# A lexeme has at most 2046 bytes, and no one types words as long as this.
LONGEST_WORD = 200
MOST_WORDS_ASKED = 20


def vector(name: str, content_type: str, tags: Iterable[str]) -> ColumnElement[Any]:
    """The tsvector to search, for an asset with this name, type and tags."""
    known = sorted(set(_words(" ".join((name, content_type, *tags)))))
    return func.array_to_tsvector(cast(known, ARRAY(Text)))


def query(text: str) -> str:
    """A tsquery, as text, that takes every word of the text as a prefix."""
    # Words hold letters and digits only, so there is nothing to escape.
    return " & ".join(f"'{word}':*" for word in _words(text)[:MOST_WORDS_ASKED])


def _words(text: str) -> list[str]:
    """The words in order, in lower case, and the same however their accents were typed."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [word[:LONGEST_WORD] for word in _WORD.findall(plain)]
