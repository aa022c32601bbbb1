"""A program that stores assets in a workspace, with the API and real requests to storage."""

import uuid
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import select

from app.config import settings
from app.db import db
from app.models import AssetVersion, Scope, Upload
from app.services import accounts, thumbnails
from tests.factories import http, put


class Keeper:
    """A client with one key of one workspace."""

    def __init__(
        self, client: FlaskClient, workspace: str = "Acme", scope: Scope = Scope.ADMIN
    ) -> None:
        self.client = client
        with client.application.app_context():
            issued = accounts.issue_key(workspace, "a test's", scope)
            self.key, self.prefix = issued.text, issued.row.prefix
            self.workspace = str(issued.row.workspace_id)

    def call(self, method: str, path: str, **given: Any) -> Any:
        """One request with the key."""
        headers = {"x-api-key": self.key} | given.pop("headers", {})
        return self.client.open(path, method=method, headers=headers, **given)

    def get(self, path: str, **query: Any) -> Any:
        """A GET of the asset service, in this workspace."""
        return self.call("GET", f"/s3{path}", query_string={"workspaceId": self.workspace} | query)

    def post(self, path: str, **body: Any) -> Any:
        """A POST of the asset service, in this workspace."""
        return self.call("POST", f"/s3{path}", json={"workspaceId": self.workspace} | body)

    def start(self, **query: Any) -> dict[str, Any]:
        """Start an upload; returns the response."""
        answer = self.get("/start-upload", **{"fileType": "text/plain"} | query)
        assert answer.status_code == 200, answer.text
        return answer.json

    def send(self, started: dict[str, Any], *bodies: bytes) -> list[dict[str, Any]]:
        """PUT these as parts; returns their numbers and ETags, for complete()."""
        parts = []
        for number, body in enumerate(bodies, start=1):
            asked = {"PartNumber": number, "UploadId": started["uploadId"]}
            url = self.get("/get-upload-url", assetId=started["assetId"], **asked).json["url"]
            answer = put(url, body)
            assert answer.status == 200, answer.data
            parts.append({"PartNumber": number, "ETag": answer.headers["ETag"]})
        return parts

    def complete(self, started: dict[str, Any], parts: list[dict[str, Any]]) -> Any:
        """Complete the upload."""
        names = {name: started[name] for name in ("uploadId", "assetId")}
        return self.post("/complete-upload", **names, parts=parts)

    def keep(self, body: bytes = b"hello", **query: Any) -> dict[str, Any]:
        """An asset that has arrived, as the API shows it."""
        started = self.start(**query)
        done = self.complete(started, self.send(started, body))
        assert done.status_code == 200, done.text
        return self.show(started["assetId"])

    def show(self, asset_id: str) -> dict[str, Any]:
        """The asset as the API shows it now."""
        answer = self.get(f"/assets/{asset_id}")
        assert answer.status_code == 200, answer.text
        return answer.json

    def names(self, **query: Any) -> list[str]:
        """The names of the assets that a search finds."""
        answer = self.get("/assets", **query)
        assert answer.status_code == 200, answer.text
        assert answer.json["total_count"] == len(answer.json["items"])
        return [item["name"] for item in answer.json["items"]]

    def fetch(self, asset_id: str, **query: Any) -> bytes:
        """The bytes behind download-url."""
        answer = self.get("/download-url", assetId=asset_id, **query)
        assert answer.status_code == 200, answer.text
        return http.request("GET", answer.json["url"]).data

    def params(self, path: str = "/s3", **query: Any) -> Any:
        """The form for a small file, requested as Uppy does."""
        given = {"filename": "small.txt", "type": "text/plain"} | query
        return self.call("GET", f"{path}/params", query_string=given)

    def picture(self, version_id: uuid.UUID) -> None:
        """Make the thumbnail, as the worker would."""
        with self.client.application.app_context():
            thumbnails.make(str(version_id))


def post_form(form: dict[str, Any], body: bytes, **changed: str) -> Any:
    """Submit a form to storage as a browser does."""
    fields = {**form["fields"], **changed, "file": ("blob", body, "application/octet-stream")}
    return http.request("POST", form["url"], fields=fields)


def version_of(key: str) -> AssetVersion:
    """The version whose bytes were sent to this key, as the database has it now."""
    return db.session.scalars(
        select(AssetVersion)
        .join(AssetVersion.upload)
        .where(Upload.key == key)
        .execution_options(populate_existing=True)
    ).one()


def upload_at(key: str) -> Upload | None:
    """The upload to this key, as the database has it now."""
    found = select(Upload).where(Upload.key == key).execution_options(populate_existing=True)
    return db.session.scalar(found)


def error(answer: Any) -> tuple[int, str]:
    """Status and code of an error, which is in the shape of this dialect."""
    assert set(answer.json) == {"error", "message", "code"}, answer.json
    assert answer.json["error"] == answer.json["message"], answer.json
    return answer.status_code, answer.json["code"]


def opened(keeper: Keeper, **body: Any) -> str:
    """The path of a new session."""
    answer = keeper.call("POST", "/s3/sessions", json=body)
    assert answer.status_code == 201, answer.text
    assert set(answer.json) == {"url", "workspaceId", "expiresIn"}
    assert answer.json["workspaceId"] == keeper.workspace
    return answer.json["url"].removeprefix(settings.base_url)
