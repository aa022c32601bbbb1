"""Senders and their transfers, made as real ones are: with the API and real PUTs."""

import base64
import re
import uuid
import zlib
from dataclasses import dataclass, field
from typing import Any

import urllib3
from flask.testing import FlaskClient

from app.db import db
from app.extensions import storage
from app.models import Scope, Transfer, Upload
from app.services import accounts, archives, checking, early_completion, transfers

http = urllib3.PoolManager(retries=False)


def put(url: str, body: bytes, headers: dict[str, str] | None = None) -> urllib3.BaseHTTPResponse:
    """PUT to storage as a browser does."""
    return http.request("PUT", url, body=body, headers=headers or {})


def crc32_of(body: bytes) -> str:
    """The CRC32 as S3 writes it."""
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def copy_anew(upload: Upload, body: bytes) -> None:
    """As a tool that copies a bucket: the object in one part of a multipart, without a checksum."""
    s3_id = storage.begin_upload(upload.key, upload.token, with_crc32=False)
    storage.put_part(upload.key, s3_id, 1, memoryview(body))
    storage.finish_upload(upload.key, s3_id, storage.list_parts(upload.key, s3_id), None)


def right_body(rule: str) -> dict[str, Any]:
    """A valid body, for routes that validate it before they look up the transfer."""
    known = {"upload-url": {"filename": "a"}, "share-download": {"emails": ["bo@example.org"]}}
    return known.get(rule.rpartition("/")[2], {})


@dataclass
class Sent:
    """A transfer as its sender knows it."""

    client: FlaskClient
    json: dict[str, Any]
    contents: dict[str, bytes] = field(default_factory=dict)

    @property
    def id(self) -> uuid.UUID:
        return uuid.UUID(self.json["id"])

    @property
    def slug(self) -> str:
        return self.json["slug"]

    @property
    def url(self) -> str:
        return f"/transfers/{self.json['id']}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.json['owner_token']}"}

    @property
    def files(self) -> list[dict[str, Any]]:
        return self.json["files"]

    def call(self, method: str, path: str = "", **given: Any) -> Any:
        """One request with the owner token."""
        return self.client.open(f"{self.url}{path}", method=method, headers=self.headers, **given)

    def show(self) -> dict[str, Any]:
        """The transfer as the API shows it now."""
        return self.call("GET").json

    def sign(self, file: dict[str, Any], *numbers: int) -> list[dict[str, Any]]:
        """Presigned parts of one file: these numbers, or all."""
        wanted = list(numbers) or list(range(1, file["part_count"] + 1))
        asked: dict[str, Any] = {"file": file["id"], "numbers": wanted}
        if file["checksum_algorithm"]:
            asked["crc32"] = [crc32_of(self.piece(file, number)) for number in wanted]
        answer = self.call("POST", "/parts", json={"wanted": [asked]})
        assert answer.status_code == 200, answer.json
        return answer.json["parts"]

    def piece(self, file: dict[str, Any], number: int) -> bytes:
        """The bytes of one part, as the sender has them."""
        start = (number - 1) * file["part_size"]
        return self.contents[file["path"]][start : start + file["part_size"]]

    def upload(self, *, without: tuple[tuple[str, int], ...] = ()) -> "Sent":
        """PUT every part of every file, except the (path, number) pairs in `without`."""
        for file in self.files:
            for part in self.sign(file):
                if (file["path"], part["number"]) in without:
                    continue
                answer = put(part["url"], self.piece(file, part["number"]), part["headers"])
                assert answer.status == 200, answer.data
        return self

    def name(self, *paths: str) -> "Sent":
        """Report these files as fully sent; without paths, all of them."""
        sent = [file["id"] for file in self.files if not paths or file["path"] in paths]
        answer = self.call("POST", "/parts", json={"wanted": [], "sent": sent})
        assert answer.status_code == 200, answer.json
        return self

    def unlock(self) -> "Sent":
        """Complete the reported files early, as the worker would."""
        with self.client.application.app_context():
            early_completion.complete_sent(str(self.id))
        return self

    def complete(self) -> "Sent":
        """Complete the transfer: all has been sent."""
        answer = self.call("POST", "/complete")
        assert answer.status_code == 202, answer.json
        return self

    def process(self) -> "Sent":
        """Check the transfer, as the worker would."""
        with self.client.application.app_context():
            checking.process(str(self.id))
        return self

    def zip(self) -> "Sent":
        """Request the zip and build it, as the worker would."""
        with self.client.application.app_context():
            archives.request(self.id)
            archives.build(str(self.id))
        return self

    def row(self) -> Transfer:
        """The row as it is now."""
        with self.client.application.app_context():
            return transfers.of_id(self.id)

    def set(self, **values: Any) -> "Sent":
        """Change the row directly, bypassing the services."""
        with self.client.application.app_context():
            row = db.session.get(Transfer, self.id)
            for name, value in values.items():
                setattr(row, name, value)
            db.session.commit()
        return self


class Sender:
    """Makes transfers through one client."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def create(
        self, contents: dict[str, bytes] | None = None, *, verified: bool = False, **options: Any
    ) -> Sent:
        """A new transfer with these files; with `verified` all of them have CRC32 checksums."""
        contents = {"a.txt": b"hello"} if contents is None else contents
        wanted = {"checksum_algorithm": "CRC32"} if verified else {}
        files = [{"path": path, "size": len(body)} | wanted for path, body in contents.items()]
        answer = self.client.post("/transfers", json={"files": files, **options})
        assert answer.status_code == 201, answer.json
        return Sent(self.client, answer.json, contents)

    def ready(self, contents: dict[str, bytes] | None = None, **options: Any) -> Sent:
        """A transfer that has gone all the way to READY."""
        sent = self.create(contents, **options).upload().complete().process()
        assert sent.show()["status"] == "READY", sent.show()
        return sent


class Machine:
    """A program with an API key that uses /v2 for one of its users."""

    def __init__(
        self,
        client: FlaskClient,
        workspace: str = "Acme",
        user: str | None = None,
        *,
        scope: Scope = Scope.WRITE,
        key: str | None = None,
    ) -> None:
        self.client = client
        if key is None:
            with client.application.app_context():
                key = accounts.issue_key(workspace, "a test's", scope).text
        self.key = key
        self.token = self.authorize(user)

    def authorize(self, user: str | None = None) -> str:
        """A token for this user."""
        body = {} if user is None else {"user_identifier": user}
        answer = self.client.post("/v2/authorize", json=body, headers={"x-api-key": self.key})
        assert (answer.status_code, answer.json["success"]) == (200, True), answer.text
        return answer.json["token"]

    @property
    def headers(self) -> dict[str, str]:
        return {"x-api-key": self.key, "Authorization": f"Bearer {self.token}"}

    def native(self, method: str, path: str, **given: Any) -> Any:
        """One request below /transfers, with only the key."""
        headers = {"Authorization": f"Bearer {self.key}"} | given.pop("headers", {})
        return self.client.open(f"/transfers{path}", method=method, headers=headers, **given)

    def make(self, **given: Any) -> Any:
        """Create a transfer with the native API; without `files`, for one PUT. The response."""
        answer = self.native("POST", "", json=given)
        assert answer.status_code == 201, answer.text
        return answer.json

    def put_one(self, body: bytes = b"hello", name: str = "a.txt", **given: Any) -> Any:
        """A READY transfer whose only file was uploaded with one PUT."""
        made = self.make(**given)
        told = self.native("POST", f"/{made['id']}/upload-url", json={"filename": name})
        assert put(told.json["upload_url"], body).status == 200
        done = self.native("POST", f"/{made['id']}/complete")
        assert (done.status_code, done.json["status"]) == (200, "READY"), done.text
        return done.json

    def call(self, method: str, path: str, **given: Any) -> Any:
        """One request below /v2."""
        headers = self.headers | given.pop("headers", {})
        return self.client.open(f"/v2{path}", method=method, headers=headers, **given)

    def create(self, contents: dict[str, bytes] | None = None, message: str = "m") -> Any:
        """Create a transfer with these files; returns the response."""
        contents = {"a.txt": b"hello"} if contents is None else contents
        files = [{"name": name, "size": len(body)} for name, body in contents.items()]
        answer = self.call("POST", "/transfers", json={"message": message, "files": files})
        assert answer.status_code == 201, answer.text
        return answer.json

    def upload(self, made: Any, contents: dict[str, bytes]) -> None:
        """PUT every chunk of every file and complete each file."""
        for file in made["files"]:
            self.send(f"/transfers/{made['id']}", file, contents[file["name"]])

    def send(self, at: str, file: Any, body: bytes, status: int = 200) -> None:
        """PUT every chunk of one file, as a simple client does, and complete it."""
        size, count = file["multipart"]["chunk_size"], file["multipart"]["part_numbers"]
        end = f"/{file['multipart']['id']}" if "id" in file["multipart"] else ""
        for number in range(1, count + 1):
            told = self.call("GET", f"{at}/files/{file['id']}/upload-url/{number}{end}")
            assert told.status_code == 200, told.text
            piece = body[(number - 1) * size : number * size]
            assert put(told.json["url"], piece).status == 200
        done = self.call(
            "PUT", f"{at}/files/{file['id']}/upload-complete", json={"part_numbers": count}
        )
        assert done.status_code == status, done.text

    def process(self, transfer_id: str) -> None:
        """Check the transfer, as the worker would."""
        with self.client.application.app_context():
            checking.process(transfer_id)

    def ready(self, contents: dict[str, bytes] | None = None) -> Any:
        """A transfer that has gone all the way to READY, as the API then shows it."""
        contents = {"a.txt": b"hello"} if contents is None else contents
        made = self.create(contents)
        self.upload(made, contents)
        assert self.call("PUT", f"/transfers/{made['id']}/finalize").status_code == 200
        self.process(made["id"])
        return self.call("GET", f"/transfers/{made['id']}").json

    def board(self, name: str = "b") -> Any:
        """A new board."""
        answer = self.call("POST", "/boards", json={"name": name})
        assert answer.status_code == 201, answer.text
        return answer.json


def post(form: Any, body: bytes, **changed: str) -> tuple[int, str]:
    """Submit a form of /files as a browser does; storage's status and error code, if any."""
    fields = {**form["fields"], **changed, "file": ("whatever.bin", body)}
    answer = http.request("POST", form["url"], fields=fields)
    code = re.search(rb"<Code>(\w+)</Code>", answer.data)
    return answer.status, code[1].decode() if code else ""


class Program:
    """A program with an API key that receives small files."""

    def __init__(
        self, client: FlaskClient, workspace: str = "Acme", *, scope: Scope = Scope.WRITE
    ) -> None:
        self.client = client
        with client.application.app_context():
            self.key = accounts.issue_key(workspace, "a test's", scope).text

    def call(self, method: str, path: str = "", **given: Any) -> Any:
        """One request below /files."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return self.client.open(f"/files{path}", method=method, headers=headers, **given)

    def offer(self, filename: str = "a.txt", **more: Any) -> Any:
        """Request a form; returns the response."""
        answer = self.call("POST", "/upload-url", json={"filename": filename, **more})
        assert answer.status_code == 200, answer.text
        return answer.json

    def sent(self, body: bytes = b"hello", filename: str = "a.txt", **more: Any) -> Any:
        """Request a form and submit it; returns the form."""
        form = self.offer(filename, **more)
        assert post(form, body) == (201, "")
        return form

    def confirm(self, key: str) -> Any:
        """Confirm the file that was uploaded with the form."""
        return self.call("POST", f"/confirm/{key}")

    def file(self, body: bytes = b"hello", filename: str = "a.txt", **more: Any) -> Any:
        """A file that was uploaded and confirmed, as the API shows it."""
        answer = self.confirm(self.sent(body, filename, **more)["key"])
        assert answer.status_code == 200, answer.text
        return answer.json

    def fetch(self, file_id: str) -> Any:
        """The response of storage with the file's bytes."""
        told = self.call("GET", f"/download/{file_id}")
        assert told.status_code == 200, told.text
        return http.request("GET", told.json["download_url"])
