"""Checksums end to end: what a network damages on its way never becomes a file (F08, F09)."""

import os
import random
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from app.config import MIB
from app.extensions import storage
from app.gateways.s3_answers import Checksums, Part, Stored
from app.services import transfers, uploads
from tests.factories import Sender, Sent, crc32_of, http, put

PART = 8 * MIB


class Careless:
    """A network that changes one bit of what is PUT, so often as it is told."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.refused = 0

    def carry(self, part: dict[str, Any], piece: bytes, flips: int) -> None:
        """PUT it damaged `flips` times, which storage must refuse, and then whole."""
        for _ in range(flips):
            damaged = bytearray(piece)
            damaged[self.rng.randrange(len(piece))] ^= 1 << self.rng.randrange(8)
            answer = put(part["url"], bytes(damaged), part["headers"])
            assert (answer.status, b"<Code>BadDigest</Code>" in answer.data) == (400, True)
            self.refused += 1
        assert put(part["url"], piece, part["headers"]).status == 200


def fetched(sent: Sent) -> dict[str, bytes]:
    """Every file's bytes as storage has them now."""
    with sent.client.application.app_context():
        files = transfers.files_of(sent.id)
    addresses = {file.path: storage.urls.get(file.upload.key, "attachment", 60) for file in files}
    return {path: http.request("GET", url).data for path, url in addresses.items()}


@pytest.mark.parametrize("conditional", [True, False])
def test_f09_no_wrong_byte_in_many_faulty_puts(
    sender: Sender, configure: Callable[..., None], conditional: bool
) -> None:
    """Of single PUTs and of parts alike."""
    configure(s3_conditional_writes=conditional)
    rng, network = random.Random(conditional), Careless(conditional)
    contents = {f"f{n}": rng.randbytes(rng.randrange(1, 3000)) for n in range(50)}
    sent = sender.create(contents, verified=True)
    for file in sent.files:
        (part,) = sent.sign(file)
        network.carry(part, sent.piece(file, 1), flips=4)
    assert network.refused == 200
    shown = sent.complete().process().show()
    assert shown["status"] == "READY"
    assert fetched(sent) == contents
    assert {file["path"]: file["crc32"] for file in shown["files"]} == {
        path: f"{zlib.crc32(body):08x}" for path, body in contents.items()
    }


def test_f09_only_damaged_bytes_came_so_nothing_is_ready(sender: Sender) -> None:
    contents = {"small": os.urandom(900), "big": os.urandom(PART + 900)}
    sent = sender.create(contents, verified=True)
    for file in sent.files:
        for part in sent.sign(file):
            piece = bytearray(sent.piece(file, part["number"]))
            piece[-1] ^= 1
            assert put(part["url"], bytes(piece), part["headers"]).status == 400
    shown = sent.complete().process().show()
    assert shown["status"] == "INIT"
    assert [file["problem"]["code"] for file in shown["files"]] == ["missing", "missing"]
    assert [file["crc32"] for file in shown["files"]] == [None, None]
    assert [one["held"] for one in sent.call("GET", "/parts").json["files"]] == [[], []]
    assert sent.upload().complete().process().show()["status"] == "READY"
    assert fetched(sent) == contents


def test_a_script_that_asks_for_none_needs_none(sender: Sender) -> None:
    """And storage is not even asked whether it could."""
    sent = sender.ready({"small": b"s", "big": b"b" * (PART + 1)})
    for file in sent.show()["files"]:
        assert (file["checksum_algorithm"], file["crc32"]) == (None, None)
    assert storage.checksums is Checksums.UNKNOWN


def test_one_transfer_may_hold_both_kinds(sender: Sender) -> None:
    sent = sender.create({})
    sent.contents |= {"plain": b"p", "verified": b"v" * (PART + 1), "null": b"n"}
    wishes: dict[str, Any] = {
        "plain": {},
        "verified": {"checksum_algorithm": "CRC32"},
        "null": {"checksum_algorithm": None},
    }
    files = [{"path": path, "size": len(sent.contents[path]), **w} for path, w in wishes.items()]
    sent.json["files"] += sent.call("POST", "/files", json={"files": files}).json["files"]
    assert [file["checksum_algorithm"] for file in sent.files] == [None, "CRC32", None]
    shown = sent.upload().complete().process().show()
    assert shown["status"] == "READY"
    whole = f"{zlib.crc32(sent.contents['verified']):08x}"
    assert [file["crc32"] for file in shown["files"]] == [None, whole, None]


def test_a_store_without_checksums_takes_everything_without(
    sender: Sender, without_checksums: Callable[[], None]
) -> None:
    without_checksums()
    contents = {"small": b"s", "big": b"b" * (PART + 1)}
    sent = sender.create(contents, verified=True)
    assert [file["checksum_algorithm"] for file in sent.files] == [None, None]
    signed = [part for file in sent.files for part in sent.sign(file)]
    assert not any("x-amz-checksum-crc32" in part["headers"] for part in signed)
    shown = sent.upload().complete().process().show()
    assert shown["status"] == "READY"
    assert [file["crc32"] for file in shown["files"]] == [None, None]
    assert fetched(sent) == contents
    told = sent.client.get("/ready").json
    assert told["checks"]["checksums"] == "not supported by this storage"
    assert told["status"] == "OK"


def test_a_store_that_only_claims_to_verify_makes_nothing_ready(
    sender: Sender, without_checksums: Callable[[], None], monkeypatch
) -> None:
    """S3_CHECKSUMS=on against a store that passes them over: refused, not believed."""
    without_checksums()
    monkeypatch.setattr(storage, "_settings", replace(storage._settings, s3_checksums="on"))
    sent = sender.create({"small": b"s", "big": b"b" * (PART + 1)}, verified=True)
    shown = sent.upload().complete().process().show()
    assert shown["status"] == "INIT"
    assert [file["problem"]["code"] for file in shown["files"]] == ["damaged", "damaged"]


def test_ready_says_what_is_known_of_checksums_and_never_asks(sender: Sender, monkeypatch) -> None:
    def said() -> str:
        answer = sender.client.get("/ready")
        assert answer.status_code == 200
        return answer.json["checks"]["checksums"]

    assert said() == said() == "not asked yet"
    sender.create(verified=True)
    assert said() == "CRC32"
    monkeypatch.setattr(storage, "_settings", replace(storage._settings, s3_checksums="off"))
    assert said() == "off"
    assert sender.create(verified=True).files[0]["checksum_algorithm"] is None


def test_while_storage_is_away_files_are_planned_without(sender: Sender, monkeypatch) -> None:
    """And a create is no slower and no less sure for it."""
    with monkeypatch.context() as away:
        away.setattr(storage._circuit, "_is_open", lambda: True)
        sent = sender.create(verified=True)
        assert sent.files[0]["checksum_algorithm"] is None
        assert sender.client.get("/ready").json["checks"]["checksums"] == "not asked yet"
    storage._ask_after = 0.0
    assert sender.create(verified=True).files[0]["checksum_algorithm"] == "CRC32"
    assert sent.upload().complete().process().show()["status"] == "READY"


def test_a_file_that_turns_out_damaged_is_sent_again_under_another_key(
    sender: Sender, monkeypatch
) -> None:
    """As when storage's own disk rots: what it says of the whole is not what it took."""
    contents = {"good": b"g", "bad": os.urandom(PART + 5)}
    sent = sender.create(contents, verified=True).upload()
    head = storage.head

    def rotten(key: str, **more: bool) -> Stored | None:
        stored = head(key, **more)
        return replace(stored, crc32=b"rot!") if stored and stored.size > PART else stored

    with monkeypatch.context() as rotting:
        rotting.setattr(storage, "head", rotten)
        shown = sent.complete().process().show()
    assert shown["status"] == "INIT"
    good, bad = shown["files"]
    assert (good["state"], good["problem"]) == ("COMPLETE", None)
    assert (bad["state"], bad["crc32"], bad["checksum_algorithm"]) == ("OPEN", None, "CRC32")
    assert bad["problem"] == {"code": "damaged", "message": "What arrived is not what was sent."}
    for part in sent.sign(bad):
        put(part["url"], sent.piece(bad, part["number"]), part["headers"])
    shown = sent.complete().process().show()
    assert (shown["status"], shown["files"][1]["problem"]) == ("READY", None)
    assert fetched(sent) == contents


def test_a_part_that_nobody_verified_is_asked_for_again(
    sender: Sender, monkeypatch, inside: None
) -> None:
    sent = sender.create({"big": b"b" * (PART + 5)}, verified=True).upload()
    held = storage.list_parts

    def unverified(key: str, s3_upload_id: str) -> list[Part]:
        first, *others = held(key, s3_upload_id)
        return [replace(first, crc32=None), *others]

    with monkeypatch.context() as old:
        old.setattr(storage, "list_parts", unverified)
        assert sent.call("GET", "/parts").json["files"][0]["held"] == [2]
        assert sent.complete().process().show()["files"][0]["problem"]["code"] == "missing"
    assert uploads.held([transfers.files_of(sent.id)[0].upload]) == [[1, 2]]
    assert sent.complete().process().show()["status"] == "READY"


def test_the_same_create_again_plans_nothing_anew(sender: Sender) -> None:
    """Its plan is that of the first, and with other wishes it is another request."""
    key = {"Idempotency-Key": "a-secret-of-the-senders-0001"}

    def create(**wish: str) -> Any:
        body = {"files": [{"path": "a", "size": 1, **wish}]}
        return sender.client.post("/transfers", json=body, headers=key)

    first = create(checksum_algorithm="CRC32")
    assert create(checksum_algorithm="CRC32").json == first.json
    assert create().status_code == 422
    assert first.json["files"][0]["checksum_algorithm"] == "CRC32"


def test_the_checksum_given_is_the_one_that_is_signed(sender: Sender) -> None:
    sent = sender.create({"a": b"abc"}, verified=True)
    wanted = {"file": sent.files[0]["id"], "numbers": [1], "crc32": [crc32_of(b"abc")]}
    (part,) = sent.call("POST", "/parts", json={"wanted": [wanted]}).json["parts"]
    assert part["headers"]["x-amz-checksum-crc32"] == crc32_of(b"abc")
    assert "x-amz-checksum-crc32" in part["url"]
    assert put(part["url"], b"abd", part["headers"]).status == 400
    assert put(part["url"], b"abc", part["headers"]).status == 200
