"""A board's page: what is on it, each file as soon as it can be had, and nobody's script."""

import re
import uuid
from typing import Any

from flask.testing import FlaskClient

from app.services import abuse, boards
from tests.factories import Machine, http
from tests.pages.test_pages import token_in


def filled(machine: Machine) -> tuple[Any, str]:
    """A board with a link, a file that has arrived and one that has not; and its page's path."""
    board = machine.board("Our <b>board</b>")
    at = f"/boards/{board['id']}"
    machine.call(
        "POST", f"{at}/links", json=[{"url": "https://example.org/?a=1&b=2", "title": "<i>x"}]
    )
    files = [{"name": "here.txt", "size": 4}, {"name": "dir/<s>.txt", "size": 1}]
    here, _ = machine.call("POST", f"{at}/files", json=files).json
    machine.send(at, here, b"1234", status=202)
    return board, "/b/" + board["url"].rpartition("/")[2]


def test_what_is_on_it_and_how_far_it_is(machine: Machine, queued: list) -> None:
    _, path = filled(machine)
    page = machine.client.get(path)
    assert page.status_code == 200
    assert (page.text.count("On its way"), page.text.count("Being checked")) == (1, 1)
    assert "Download" not in page.text.replace("data-download", "")
    assert 'hx-trigger="every 5s"' in page.text
    assert 'http-equiv="refresh"' in page.text
    machine.process(queued[0][1])
    page = machine.client.get(path)
    assert page.text.count("data-download") == 1
    assert 'data-state="uploading"' in page.text


def test_the_end_of_a_long_title_stays_in_sight(machine: Machine) -> None:
    board = machine.board("Ours")
    link = {"url": "https://example.org/", "title": "What we have found on the way, part 2"}
    machine.call("POST", f"/boards/{board['id']}/links", json=[link])
    page = machine.client.get("/b/" + board["url"].rpartition("/")[2]).text
    assert '<span class="name-end">ay, part 2</span></span></a>' in page


def test_a_file_is_fetched_by_its_button(machine: Machine, queued: list) -> None:
    _, path = filled(machine)
    machine.process(queued[0][1])
    page = machine.client.get(path).text
    action = re.search(r'action="([^"]+)"', page)
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert action
    assert token
    led = machine.client.post(action[1], data={"csrf_token": token[1]})
    assert led.status_code == 303
    assert http.request("GET", led.headers["Location"]).data == b"1234"


def test_s31_a_file_that_is_quarantined_is_not_even_named(machine: Machine, inside: None) -> None:
    board, path = filled(machine)
    file = next(one.file for one in boards.items_of(uuid.UUID(board["id"])) if one.file)
    abuse.quarantine(file.transfer_id)
    page = machine.client.get(path).text
    assert "here.txt" not in page
    assert "&lt;s&gt;.txt" in page
    abuse.lift_quarantine(file.transfer_id)
    assert "here.txt" in machine.client.get(path).text


def test_s31_it_is_reported_and_stopped_as_a_link_is(
    machine: Machine, queued: list, inside: None
) -> None:
    board, path = filled(machine)
    machine.process(queued[0][1])
    for headers in ({}, {"HX-Request": "true"}):
        page = machine.client.get(path, headers=headers).text
        assert f'href="{path}/report"' in page
    form = machine.client.get(f"{path}/report").text
    assert f'href="{path}"' in form
    assert "here.txt" not in form
    given = {"csrf_token": token_in(form), "reason": "phishing"}
    told = machine.client.post(f"{path}/report", data=given)
    assert told.headers["Location"] == f"{path}/report"
    assert "Your report has been received." in machine.client.get(f"{path}/report").text
    ((report, about),) = abuse.reports()
    assert (report.reason, str(about.id)) == ("phishing", board["id"])
    assert abuse.quarantine_board(about.id)
    get = re.search(r'action="([^"]+)"', page)
    assert get
    for address in (path, f"{path}/report", get[1].partition("/files/")[0]):
        gone = machine.client.get(address)
        assert gone.status_code == 410
        assert "This is not available." in gone.text
    more = [{"url": "https://example.org/", "title": "x"}]
    added = machine.call("POST", f"/boards/{board['id']}/links", json=more)
    assert added.status_code == 403
    assert abuse.lift_board_quarantine(about.id)
    assert "here.txt" in machine.client.get(path).text


def test_nothing_on_it_runs_or_is_told_where_from(machine: Machine) -> None:
    _, path = filled(machine)
    page = machine.client.get(path).text
    assert "Our &lt;b&gt;board&lt;/b&gt;" in page
    assert (
        '<a class="name" href="https://example.org/?a=1&amp;b=2" rel="noopener noreferrer nofollow ugc"'
        in page
    )
    assert "&lt;i&gt;x</a>" in page
    assert not re.search(r"<(b|i|s)>", page)


def test_the_changing_region_alone_for_htmx(machine: Machine) -> None:
    _, path = filled(machine)
    fragment = machine.client.get(path, headers={"HX-Request": "true"})
    assert "<html" not in fragment.text
    assert "here.txt" in fragment.text
    empty = machine.client.get("/b/" + machine.board()["url"].rpartition("/")[2])
    # Whether there never was anything, or all of it is over.
    assert "This board is empty." in empty.text
    assert "hx-trigger" not in empty.text


def test_no_board_there(client: FlaskClient, configure: Any) -> None:
    for path in ("/b/" + "x" * 32, "/b/short", "/b/"):
        gone = client.get(path, headers={"Accept": "text/html"})
        assert gone.status_code == 404
        assert "Check that you copied all of it" in gone.text
