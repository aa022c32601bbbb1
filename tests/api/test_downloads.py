"""`<link>.json` and `<link>.sfv`: what they tell, and that telling counts nothing."""

import zlib
from datetime import timedelta

from flask.testing import FlaskClient

from app import clock
from app.config import MIB
from tests.factories import Sender, http


def test_json_tells_what_the_page_shows(sender: Sender) -> None:
    contents = {"a.txt": b"hello", "ü/b ☕.bin": b"b" * (8 * MIB + 1)}
    sent = sender.ready(contents, verified=True, title="Rushes", message="Hi", max_downloads=3)
    answer = sender.client.get(f"/d/{sent.slug}.json")
    assert answer.headers["Cache-Control"] == "no-store"
    told = answer.json
    files = told.pop("files")
    assert told == {
        "link": f"http://localhost/d/{sent.slug}",
        "state": "ready",
        "title": "Rushes",
        "message": "Hi",
        "expires_at": sent.json["expires_at"],
        "downloads_left": 3,
        "total_size": sum(map(len, contents.values())),
        "zip": {
            "url": f"http://localhost/d/{sent.slug}/zip",
            "state": "none",
            "size": None,
            "done_size": 0,
        },
    }
    assert files == [
        {
            "id": sent.files[n]["id"],
            "path": path,
            "size": len(body),
            "content_type": "",
            "crc32": f"{zlib.crc32(body):08x}",
            "state": "COMPLETE",
            "download_url": f"http://localhost/d/{sent.slug}/files/{sent.files[n]['id']}",
        }
        for n, (path, body) in enumerate(contents.items())
    ]
    assert sent.row().download_count == 0


def test_following_a_download_url_counts_one(sender: Sender, client: FlaskClient) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"}, max_downloads=2)
    plain = client.application.test_client(use_cookies=False)
    for left, method in ((1, "POST"), (0, "GET")):
        url = plain.get(f"/d/{sent.slug}.json").json["files"][1]["download_url"]
        answer = plain.open(url, method=method, headers={"User-Agent": "curl/8"})
        assert http.request("GET", answer.headers["Location"]).data == b"2"
        assert sent.row().download_count == 2 - left
    assert plain.get(f"/d/{sent.slug}.json").status_code == 410


def test_before_everything_has_arrived_it_tells_how_far_it_is(sender: Sender) -> None:
    sent = sender.create()
    told = sender.client.get(f"/d/{sent.slug}.json").json
    assert (told["state"], told["downloads_left"]) == ("uploading", None)
    assert [(file["state"], file["crc32"]) for file in told["files"]] == [("OPEN", None)]
    sent.upload().complete()
    assert sender.client.get(f"/d/{sent.slug}.json").json["state"] == "processing"


def test_expired_to_the_second(sender: Sender) -> None:
    sent = sender.ready().set(expires_at=clock.now() - timedelta(milliseconds=1))
    answer = sender.client.get(f"/d/{sent.slug}.json")
    assert (answer.status_code, answer.json["reason"]) == (410, "expired")


def test_only_get_is_known(sender: Sender) -> None:
    sent = sender.ready()
    answer = sender.client.post(f"/d/{sent.slug}.json")
    assert (answer.status_code, answer.json["error"]["code"]) == (405, "method_not_allowed")


def read_sfv(text: str) -> dict[str, int]:
    """As the checkers read it: the last eight characters are the sum, all before the space the name."""
    lines = [line for line in text.splitlines() if not line.startswith(";")]
    return {line[:-9]: int(line[-8:], 16) for line in lines if line[-9] == " "}


def test_sfv_lists_each_verified_file_by_the_name_it_is_saved_under(sender: Sender) -> None:
    contents = {
        "a b.txt": b"1", "dir/c.txt": b"2", "; d.txt": b"3", "# e": b"4", "x\u202egnp.exe": b"5", "ü ☕": b"6",
        ".env": b"7", "it's \"it\"": b"8", 'a "b"': b"9",
    }  # fmt: skip
    sent = sender.ready(contents, verified=True)
    answer = sender.client.get(f"/d/{sent.slug}.sfv")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    names = ["a b.txt", "c.txt", "./; d.txt", "./# e", "xgnp.exe", "ü ☕", "_.env", "it's _it_"]
    names.append('a "b"')
    assert read_sfv(answer.text) == dict(
        zip(names, map(zlib.crc32, contents.values()), strict=True)
    )
    assert sent.row().download_count == 0


def test_sfv_keeps_the_folders_of_names_that_two_files_share(sender: Sender) -> None:
    sent = sender.ready({"a/x": b"1", "b/x": b"2", "b/y": b"3"}, verified=True)
    assert list(read_sfv(sender.client.get(f"/d/{sent.slug}.sfv").text)) == ["a/x", "b/x", "y"]


def test_sfv_says_of_which_files_it_knows_nothing(sender: Sender) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"})
    said = sender.client.get(f"/d/{sent.slug}.sfv").text
    assert read_sfv(said) == {}
    assert said.splitlines()[-2:] == [f"; no checksum is known of: {name}" for name in "ab"]
