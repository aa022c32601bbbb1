"""S19: any file name results in a Content-Disposition that every client reads correctly."""

import re
from email.message import Message
from urllib.parse import unquote

import pytest

from app.dispositions import attachment, attachment_for_curl, safe_name, saved_name

NAMES = [
    "plain.txt", "with space.txt", 'quo"te.txt', "apo'strophe.txt", "semi;colon.txt", "per%41cent.txt",
    "back\\slash.txt", "a/b.txt", "new\nline.txt", "car\rriage\r\nX-Evil: 1.txt", "tab\tbed", "nul\0.txt",
    "ümlaut.txt", "日本語.txt", "עברית.txt", "العربية.pdf", "emoji 😀☕.png", "👩‍👩‍👧‍👦.jpg", "e\u0301.txt",
    "exe\u202egpj.exe", "\u2066hidden\u2069.txt", "zero\u200bwidth.txt", ".hidden", "..", ".", "...",
    "", " ", "   lead.txt", "trail.txt   ", "a" * 255, "é" * 127 + ".txt", "CON", "nul.txt", "-rf", "--help",
    "*.txt", "a?b", "a:b", "a|b", "<script>.html", "$(id).sh", "`id`", "a&b=c", "a+b", "a,b", "a=b",
    "\x7f\x80\x9f.txt", "\u2028sep\u2029.txt", "\ufeffbom.txt", "\ud800lone", "file.tar.gz", "no_extension",
    "Ελληνικά.doc", "русский.zip", "ไทย.txt", "हिन्दी.txt", "x" * 250 + ".txt", ".curlrc",
    "a\uff0f.curlrc", "a\uff0f..\uff0f..\uff0f.bashrc", "x\uff3c..\uff3cevil.exe", "\u2100.txt", "\u2105", "\u2024curlrc",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_header_is_one_line_that_parses_to_the_name_to_save_it_under(name: str) -> None:
    header = attachment(name)
    assert header.isascii()
    assert header.isprintable()
    message = Message()
    message["Content-Disposition"] = header
    assert message.get_content_disposition() == "attachment"
    match = re.fullmatch(
        r"attachment; filename=\"([^\"/\\%;]+)\"; filename\*=UTF-8''([A-Za-z0-9!#$&+.^_`|~%-]+)",
        header,
    )
    assert match
    assert not match[1].startswith(".")
    true = unquote(match[2])
    assert true == saved_name(name)
    assert "/" not in true
    assert "\\" not in true
    assert true.strip(".") not in ("",)
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in true)


def test_ordinary_names_are_kept_to_the_letter() -> None:
    for name in (
        "plain.txt",
        "emoji 😀☕.png",
        "עברית.txt",
        'quo"te.txt',
        "👩‍👩‍👧‍👦.jpg",
        ".hidden",
    ):
        assert safe_name(name) == name


@pytest.mark.parametrize("name", [".curlrc", ".wgetrc", ".bash_profile", " .x", "\u202e.x", "..a"])
def test_no_file_is_saved_hidden_under_a_name_that_its_sender_chose(name: str) -> None:
    """In a home folder such a file could be read as the settings of the next command."""
    kept = safe_name(name)
    for header in (attachment(name), attachment_for_curl(name)):
        assert re.findall(r"filename=.(.[^\"]*)\"", header) == [f"_{kept}"]
    assert attachment(name).endswith(f"filename*=UTF-8''_{kept}")


def test_the_old_fashioned_name_keeps_the_extension() -> None:
    assert 'filename="file.pdf"' in attachment("العربية.pdf")


@pytest.mark.parametrize("name", NAMES)
def test_curl_gets_the_name_in_raw_utf_8(name: str) -> None:
    header = attachment_for_curl(name).encode("latin-1").decode()
    match = re.fullmatch(r"attachment; filename=(['\"])(.+)\1", header)
    assert match
    assert match[1] not in match[2]
    assert match[2] == saved_name(name)
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in header)


def test_a_name_with_both_quotes_keeps_only_one_kind_for_curl() -> None:
    assert attachment_for_curl('it\'s "it"') == 'attachment; filename="it\'s _it_"'
