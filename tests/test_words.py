"""How file names are shown; tests/js/file-list.test.js has the same table."""

import pytest

from app.words import end_of_name


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("Short name.mov", ""),
        ("Coast road, evening.jpg.exe", "ng.jpg.exe"),
        ("Überblick über die Änderungen im Frühjahr.pdf", "hjahr.pdf"),
        ("תמונות מהטיול הגדול.zip", ".zip"),
        ("Отчёт за третий квартал 2024.docx", " 2024.docx"),
        ("2024年年度報告書とその付録の一覧.pdf", ".pdf"),
        ("A letter with cafe\u0301s", "s"),
        ("Отчёт за третий квартал", ""),
        ("a name that ends in a line\n", ""),
    ],
)
def test_the_end_of_a_long_name_stays_in_sight(name: str, end: str) -> None:
    assert end_of_name(name) == end
