"""Senders and their transfers, made the way a real one makes them: by the API and real PUTs."""

import base64
import uuid
import zlib
from dataclasses import dataclass, field
from typing import Any

import urllib3
from flask.testing import FlaskClient

from app.db import db
from app.models import Transfer
from app.services import archives, checking, transfers, unlocking

http = urllib3.PoolManager(retries=False)


def put(url: str, body: bytes, headers: dict[str, str] | None = None) -> urllib3.BaseHTTPResponse:
    """PUT to storage as a browser does."""
    return http.request("PUT", url, body=body, headers=headers or {})


def crc32_of(body: bytes) -> str:
    """The CRC32 as S3 writes it."""
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


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
        """Signed parts of one file; all of them when none is named."""
        wanted = list(numbers) or list(range(1, file["part_count"] + 1))
        asked: dict[str, Any] = {"file": file["id"], "numbers": wanted}
        if file["checksum_algorithm"]:
            asked["crc32"] = [crc32_of(self.piece(file, number)) for number in wanted]
        answer = self.call("POST", "/parts", json={"wanted": [asked]})
        assert answer.status_code == 200, answer.json
        return answer.json["parts"]

    def piece(self, file: dict[str, Any], number: int) -> bytes:
        """The bytes of one part as its sender has them."""
        start = (number - 1) * file["part_size"]
        return self.contents[file["path"]][start : start + file["part_size"]]

    def upload(self, *, without: tuple[tuple[str, int], ...] = ()) -> "Sent":
        """PUT every part of every file, but for the (path, number) pairs left out."""
        for file in self.files:
            for part in self.sign(file):
                if (file["path"], part["number"]) in without:
                    continue
                answer = put(part["url"], self.piece(file, part["number"]), part["headers"])
                assert answer.status == 200, answer.data
        return self

    def name(self, *paths: str) -> "Sent":
        """Say that these files were sent whole; all of them when none is named."""
        sent = [file["id"] for file in self.files if not paths or file["path"] in paths]
        answer = self.call("POST", "/parts", json={"wanted": [], "sent": sent})
        assert answer.status_code == 200, answer.json
        return self

    def unlock(self) -> "Sent":
        """Do what the worker would do of what was named."""
        with self.client.application.app_context():
            unlocking.unlock(str(self.id))
        return self

    def complete(self) -> "Sent":
        """Say "that is all"."""
        answer = self.call("POST", "/complete")
        assert answer.status_code == 202, answer.json
        return self

    def process(self) -> "Sent":
        """Do what the worker would do."""
        with self.client.application.app_context():
            checking.process(str(self.id))
        return self

    def zip(self) -> "Sent":
        """Have the zip made, and do what the worker would do."""
        with self.client.application.app_context():
            archives.request(self.id)
            archives.build(str(self.id))
        return self

    def row(self) -> Transfer:
        """The row as it is now."""
        with self.client.application.app_context():
            return transfers.of_id(self.id)

    def set(self, **values: Any) -> "Sent":
        """Change the row behind everybody's back."""
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
        """A new transfer that announces these files; `verified` wants CRC32 for all of them."""
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
