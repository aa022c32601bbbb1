"""The recipient without a browser: what is a fetch, what only a look, and each answer's form."""

import re
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from app import clock
from app.dispositions import safe_name
from tests.factories import Sender, Sent, http
from tests.pages.test_pages import token_in

CURL = {"User-Agent": "curl/8.5.0", "Accept": "*/*"}
PROGRAMS = [
    "curl/7.88.1", "curl/8.11.0-DEV", "Wget/1.21.3", "Wget/1.21.3 (linux-gnu)", "aria2/1.36.0",
    "HTTPie/3.2.1", "xh/0.18.0", "beeline/0.1.0",
]  # fmt: skip
SCANNERS = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/120.0 Safari/537.36",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", "Twitterbot/1.0", "WhatsApp/2.23",
    "facebookexternalhit/1.1", "TelegramBot (like TwitterBot)", "SkypeUriPreview Preview/0.5",
    "Mozilla/5.0 (compatible; Microsoft SafeLinks)", "python-requests/2.31.0", "Go-http-client/2.0",
    "curl/7.64.0 (compatible; LinkChecker/2.0; +https://scan.example)", "libcurl-agent/1.0",
    "Mozilla/5.0 (compatible; curl/8.5.0)", "",
]  # fmt: skip


@pytest.fixture
def plain(client: FlaskClient) -> FlaskClient:
    """Whoever keeps no cookies."""
    return client.application.test_client(use_cookies=False)


def addresses(sent: Sent) -> list[str]:
    """Every address that a link has, of the two files a.txt and b/c.txt."""
    link, (file, _) = f"/d/{sent.slug}", sent.files
    below = (f"files/{file['id']}", "files/1", "a.txt", "b/c.txt", file["id"])
    return [link, *(f"{link}{end}" for end in (".json", ".sfv", ".svg"))] + [
        f"{link}/{end}" for end in below
    ]


def signed(answer) -> bool:
    return "X-Amz-Signature" in answer.headers.get("Location", "")


def test_f54_fifteen_scanners_look_everywhere_and_a_person_gets_the_file_once(
    sender: Sender, plain: FlaskClient
) -> None:
    sent = sender.ready({"a.txt": b"1", "b/c.txt": b"2"}, max_downloads=1)
    alone = sender.ready(max_downloads=1)
    assert len(SCANNERS) == 15
    for agent in SCANNERS:
        for url in [*addresses(sent), f"/d/{alone.slug}"]:
            for method in ("GET", "HEAD", "OPTIONS"):
                answer = plain.open(url, method=method, headers={"User-Agent": agent})
                assert answer.status_code in (200, 303), (agent, url)
                assert not signed(answer), (agent, url)
    assert [one.row().download_count for one in (sent, alone)] == [0, 0]
    assert plain.get(f"/d/{alone.slug}", headers=CURL).status_code == 303
    assert plain.get(f"/d/{alone.slug}", headers=CURL).status_code == 410
    form = {"csrf_token": token_in(sender.client.get(f"/d/{sent.slug}").text)}
    assert signed(sender.client.post(f"/d/{sent.slug}/files/{sent.files[0]['id']}", data=form))
    assert [one.row().download_count for one in (sent, alone)] == [1, 1]


@pytest.mark.parametrize("agent", PROGRAMS)
def test_a_program_gets_the_one_file_by_the_link_alone(
    sender: Sender, plain: FlaskClient, agent: str
) -> None:
    sent = sender.ready({"a.txt": b"content"})
    answer = plain.get(f"/d/{sent.slug}", headers={"User-Agent": agent, "Accept": "*/*"})
    assert answer.status_code == 303
    assert answer.headers["Cache-Control"] == "no-store"
    assert http.request("GET", answer.headers["Location"]).data == b"content"
    assert sent.row().download_count == 1


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_a_program_may_look_too(sender: Sender, plain: FlaskClient, method: str) -> None:
    sent = sender.ready({"a.txt": b"1", "b/c.txt": b"2"})
    for url in addresses(sent):
        assert not signed(plain.open(url, method=method, headers=CURL))
    assert sent.row().download_count == 0


@pytest.mark.parametrize(
    "said",
    [
        {"Accept": "text/html,*/*;q=0.8"}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Mode": "navigate"},
        {"Origin": "https://evil.example"}, {"From": "crawler@example.org"}, {"Purpose": "prefetch"},
        {"Sec-Purpose": "prefetch"}, {"X-Purpose": "preview"}, {"X-Moz": "prefetch"},
    ],
)  # fmt: skip
def test_who_says_that_nobody_asked_is_led_to_the_page(
    sender: Sender, plain: FlaskClient, said: dict[str, str]
) -> None:
    sent = sender.ready()
    answer = plain.get(f"/d/{sent.slug}", headers=CURL | said)
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    answer = plain.get(f"/d/{sent.slug}/a.txt", headers=CURL | said)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/d/{sent.slug}")
    assert sent.row().download_count == 0


def test_one_of_many_by_id_number_or_path(sender: Sender, plain: FlaskClient) -> None:
    contents = {
        "a.txt": b"1", "dir/ü 50% #[1].txt": b"2", "files/1": b"3", "files/x": b"4", "z\\?&.txt": b"5",
    }  # fmt: skip
    sent = sender.ready(contents)
    link = f"/d/{sent.slug}"
    for number, (file, body) in enumerate(zip(sent.files, contents.values(), strict=True), start=1):
        ways = [f"files/{file['id']}", f"files/{number}", file["id"]]
        # Under files/ numbers and ids come first.
        ways += [] if file["path"] == "files/1" else [quote(file["path"])]
        for way in ways:
            answer = plain.get(f"{link}/{way}", headers=CURL)
            assert http.request("GET", answer.headers["Location"]).data == body, way
    for wrong in (
        "files/0",
        "files/6",
        "files/1000001",
        "A.txt",
        "dir",
        "a.txt/",
        "a%00b",
        "%ff",
        "x" * 36,
    ):
        assert plain.get(f"{link}/{wrong}", headers=CURL).status_code == 404, wrong
    assert plain.get(f"{link}/{sender.ready().files[0]['id']}", headers=CURL).status_code == 404


def test_numbers_close_up_when_a_file_was_taken_out(sender: Sender, plain: FlaskClient) -> None:
    sent = sender.create({"a": b"1", "b": b"2", "c": b"3"}).upload()
    sent.call("DELETE", f"/files/{sent.files[0]['id']}")
    sent.complete().process()
    answer = plain.get(f"/d/{sent.slug}/files/2", headers=CURL)
    assert http.request("GET", answer.headers["Location"]).data == b"3"
    assert plain.get(f"/d/{sent.slug}/files/3", headers=CURL).status_code == 404


def test_many_files_are_listed_in_plain_text_which_counts_nothing(
    sender: Sender, plain: FlaskClient
) -> None:
    sent = sender.ready({"dir/a\u202etxt.exe": b"1", "b": b"22"})
    answer = plain.get(f"/d/{sent.slug}", headers=CURL)
    assert (answer.status_code, answer.mimetype) == (200, "text/plain")
    assert answer.headers["Cache-Control"] == "no-store"
    link = f"http://localhost/d/{sent.slug}"
    assert answer.text.splitlines() == [
        "dir/atxt.exe  (1 byte)",
        f"  {link}/files/{sent.files[0]['id']}",
        "b  (2 bytes)",
        f"  {link}/files/{sent.files[1]['id']}",
        "",
        "All of them, as one zip:",
        f'  curl --retry 50 -fOJL "{link}/zip"',
        "",
        "All of them, separately, as one download:",
        f'  curl -b "" -OJL "{link}/files/[1-2]"',
        "",
        f"As JSON: {link}.json",
        f"Checksums: {link}.sfv",
    ]
    assert sent.row().download_count == 0


def test_who_keeps_cookies_may_try_again(sender: Sender, client: FlaskClient) -> None:
    """wget does by itself, `curl -b ""` within one command."""
    sent = sender.ready({"a": b"1", "b": b"2"}, max_downloads=1)
    other = client.application.test_client()
    for way in ("files/1", "files/2", "a"):
        assert signed(other.get(f"/d/{sent.slug}/{way}", headers=CURL))
    assert sent.row().download_count == 1
    assert other.get(f"/d/{sent.slug}.json", headers=CURL).json["state"] == "ready"
    stranger = client.application.test_client()
    assert stranger.get(f"/d/{sent.slug}/a", headers=CURL).status_code == 410


def test_without_cookies_each_fetch_counts(sender: Sender, plain: FlaskClient) -> None:
    sent = sender.ready(max_downloads=2)
    told = [plain.get(f"/d/{sent.slug}", headers=CURL).status_code for _ in range(4)]
    assert told == [303, 303, 410, 410]
    assert sent.row().download_count == 2


@pytest.mark.parametrize(
    ("kind", "status"),
    [("unknown", 404), ("deleted", 410), ("expired", 410), ("limit_reached", 410)],
)
def test_every_end_has_the_pages_status_in_the_form_that_was_asked_for(
    sender: Sender, plain: FlaskClient, kind: str, status: int
) -> None:
    sent = sender.ready({"a.txt": b"1", "b/c.txt": b"2"}, title="Secret", max_downloads=1)
    if kind == "unknown":
        sent.json["slug"] = "x" * 32
    if kind == "deleted":
        sent.call("DELETE")
    if kind == "expired":
        sent.set(expires_at=clock.now() - timedelta(seconds=1))
    if kind == "limit_reached":
        sent.set(download_count=1)
    assert plain.get(f"/d/{sent.slug}").status_code == status
    # Nobody is told any more which files there were.
    for url in [*addresses(sent), f"/d/{sent.slug}/never-there", f"/d/{sent.slug}/files/9"]:
        answer = plain.get(url, headers=CURL)
        assert answer.status_code == status, url
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Secret" not in answer.text
        if url.endswith(".json"):
            assert answer.json["error"]["code"] == ("gone" if status == 410 else "not_found")
            assert answer.json.get("reason") == (None if kind == "unknown" else kind)
        else:
            assert answer.mimetype == "text/plain"
            assert re.fullmatch(r"[A-Z][^\n<]+\.\n", answer.text)
    for end, form in ((".json", "application/json"), (".sfv", "text/plain"), (".svg", "text/html")):
        assert plain.get(f"/d/{sent.slug}{end}").mimetype == form


def test_before_everything_has_arrived(sender: Sender, plain: FlaskClient) -> None:
    sent = sender.create({"a.txt": b"1"})
    for url in (f"/d/{sent.slug}", f"/d/{sent.slug}/a.txt"):
        answer = plain.get(url, headers=CURL)
        assert (answer.status_code, answer.mimetype) == (409, "text/plain")
        assert answer.text == "This file has not fully arrived yet.\n"
    many = sender.create({"a": b"1", "b": b"2"})
    said = plain.get(f"/d/{many.slug}", headers=CURL).text
    assert said.startswith("The files have not fully arrived yet.")
    assert sent.row().download_count == many.row().download_count == 0


def test_addresses_that_are_no_link_have_the_form_they_ask_for(plain: FlaskClient) -> None:
    for end, form in ((".json", "application/json"), (".sfv", "text/plain"), ("", "text/html")):
        answer = plain.get(f"/d/short{end}")
        assert (answer.status_code, answer.mimetype) == (404, form)
    assert plain.get("/d/short", headers=CURL).mimetype == "text/plain"


def test_a_file_that_ends_as_a_list_does_is_still_a_file(
    sender: Sender, plain: FlaskClient
) -> None:
    sent = sender.ready({"a.json": b"{}", "b.sfv": b""})
    assert signed(plain.get(f"/d/{sent.slug}/a.json", headers=CURL))
    missing = plain.get(f"/d/{sent.slug}/c.json", headers=CURL)
    assert (missing.status_code, missing.mimetype) == (404, "text/plain")


def test_only_curl_is_told_the_name_by_us(sender: Sender, plain: FlaskClient) -> None:
    sent = sender.ready({"naïve ☕.txt": b"1"})
    named = plain.get(f"/d/{sent.slug}", headers=CURL).headers["Content-Disposition"]
    assert named.encode("latin-1").decode() == 'attachment; filename="naïve ☕.txt"'
    wget = plain.get(f"/d/{sent.slug}", headers={"User-Agent": "Wget/1.21.3"})
    assert "Content-Disposition" not in wget.headers


ENDS = [".json", ".sfv", ".svg", "/files/1", "/a.txt", ""]


@pytest.mark.parametrize("end", ENDS)
def test_s09_unknown_links_share_one_limit_whatever_is_asked_of_them(
    client: FlaskClient, configure: Callable[..., None], end: str
) -> None:
    configure(max_unknown_per_minute=6)
    somebody = {"environ_base": {"REMOTE_ADDR": f"198.51.100.{ENDS.index(end)}"}, "headers": CURL}
    told = [client.get(f"/d/{n:032}{one}", **somebody).status_code for n, one in enumerate(ENDS)]
    assert told == [404] * 6
    refused = client.get(f"/d/{'y' * 32}{end}", **somebody)
    assert refused.status_code == 429
    assert refused.mimetype == ("application/json" if end == ".json" else "text/plain")


def test_the_page_says_how(sender: Sender) -> None:
    link = "http://localhost/d/"
    one = sender.ready({"a.txt": b"1"}, verified=True)
    page = sender.client.get(f"/d/{one.slug}").text
    assert f"curl -OJL &#34;{link}{one.slug}&#34;" in page
    own = "curl -o beeline &#34;http://localhost/cli&#34; &amp;&amp; python3 beeline get"
    assert f"{own} &#34;{link}{one.slug}&#34;" in page
    assert f"{link}{one.slug}.sfv&#34; &amp;&amp; cksfv -f checksums.sfv" in page
    many = sender.ready({'b/c "$(id)`.txt': b"1", "much longer than the other.txt": b"2"})
    page = sender.client.get(f"/d/{many.slug}").text
    assert f"curl --retry 50 -fOJL &#34;{link}{many.slug}/zip&#34;" in page
    assert f"{link}{many.slug}/files/[1-2]&#34;" in page
    assert f"{link}{many.slug}/b/c%20%22%24%28id%29%60.txt&#34;" in page
    assert "cksfv" not in page  # none was verified
    assert "The zip and our own program keep folders." in page
    moving = sender.create()
    assert "curl" not in sender.client.get(f"/d/{moving.slug}").text
    odd = sender.ready({"files/1": b"1", "files/2": b"2"})
    page = sender.client.get(f"/d/{odd.slug}").text
    assert f"{link}{odd.slug}/files/{odd.files[0]['id']}&#34;" in page


def test_names_in_a_list_are_safe_in_a_terminal(sender: Sender, plain: FlaskClient) -> None:
    name = "a\u2028b\u202e.txt"
    sent = sender.ready({f"{name}/{name}": b"1", "b": b"2"})
    said = plain.get(f"/d/{sent.slug}", headers=CURL).text
    assert said.startswith(f"{safe_name(name)}/{safe_name(name)}  (1 byte)\n")
