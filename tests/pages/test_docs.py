"""/docs and /openapi.json: the description for people and for tools, from one file."""

import re
from html import unescape

import yaml
from flask.testing import FlaskClient

from app import description
from tests.described import parameter

DESCRIPTION = description.document()


def test_every_operation_status_parameter_and_schema_is_on_the_page(client: FlaskClient) -> None:
    answer = client.get("/docs")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    calls = {
        found[1]: unescape(found[2])
        for found in re.finditer(r'id="call-(\w+)">(.*?)</details>', answer.text, re.DOTALL)
    }
    for path, item in DESCRIPTION["paths"].items():
        assert f'<code class="call-path">{path}</code>' in answer.text
        for method, said in item.items():
            if method == "parameters":
                continue
            shown = calls.pop(said["operationId"])
            for status in said["responses"]:
                assert f'<b class="tabular">{status}</b>' in shown, (method, path, status)
            for given in said.get("parameters", []):
                name = parameter(given)["name"]
                assert f">{name}</code>" in shown, (method, path, name)
    assert calls == {}
    for name in DESCRIPTION["components"]["schemas"]:
        assert f'id="schema-{name}"' in answer.text
    targets = set(re.findall(r'href="#([\w-]+)"', answer.text))
    assert targets <= set(re.findall(r'id="([\w-]+)"', answer.text))


def test_the_page_is_plain_html_under_the_same_policy_as_all(client: FlaskClient) -> None:
    answer = client.get("/docs")
    body = answer.text
    assert re.findall(r"<script[^>]*>", body) == re.findall(
        r'<script type="module" src="/[^"]+">', body
    )
    assert not re.search(r"<style|\sstyle=|\son\w+=", body)
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert len(answer.data) < 400_000


def test_both_are_sent_again_only_when_they_have_changed(client: FlaskClient) -> None:
    for path in ("/docs", "/openapi.json"):
        first = client.get(path)
        assert first.headers["Cache-Control"] == "no-cache"
        again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
        assert client.get(path, headers={"If-None-Match": '"other"'}).data == first.data


def test_openapi_json_is_what_was_written(client: FlaskClient) -> None:
    answer = client.get("/openapi.json")
    assert answer.json == yaml.safe_load(description.PATH.read_text())
    assert answer.json["openapi"] == "3.1.0"
    # A tool on another site may read it: it holds nothing of anybody's.
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_every_page_leads_there(client: FlaskClient) -> None:
    for page in ("/", "/docs", "/d/nobody-knows-this-link-000"):
        assert '<a href="/docs">' in client.get(page, headers={"Accept": "text/html"}).text
