"""How often PostgreSQL, Redis and storage are asked for what uploads ask most: each costs CPU."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from botocore.client import BaseClient
from flask.testing import FlaskClient
from psycopg2 import extensions
from sqlalchemy import update

from app.config import MIB
from app.db import db, transaction
from app.extensions import storage
from app.models import Upload
from tests.factories import Machine
from tests.keeper import Keeper

pytestmark = pytest.mark.real_commits
Counting = Callable[[], Counter[str]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    """What was asked of whom since this was last called: BEGIN and COMMIT count as well."""
    count: Counter[str] = Counter()

    def counted(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*given: Any, **more: Any) -> Any:
            count[name] += 1
            return act(*given, **more)

        return counting

    def told() -> Counter[str]:
        found = Counter(count)
        count.clear()
        return found

    wait = extensions.get_wait_callback()
    extensions.set_wait_callback(counted("postgres", wait))
    command = redis.Redis.execute_command
    monkeypatch.setattr(redis.Redis, "execute_command", counted("redis", command))
    monkeypatch.setattr(
        storage._clients.opener, "_post", counted("storage", storage._clients.opener._post)
    )
    send = BaseClient._make_api_call
    monkeypatch.setattr(BaseClient, "_make_api_call", counted("boto3", send))
    yield told
    extensions.set_wait_callback(wait)


@pytest.fixture
def keeper(client: FlaskClient) -> Keeper:
    made = Keeper(client)
    # Connections are there, scripts are known, that the key is used is noted.
    made.get("/workspace")
    return made


def begun(keeper: Keeper) -> dict[str, Any]:
    answer = keeper.call("POST", "/s3/multipart", json={"filename": "a.mov", "type": "video/mp4"})
    assert answer.status_code == 200, answer.text
    return answer.json


def sign(keeper: Keeper, made: dict[str, Any], rest: str, **more: str) -> None:
    address = f"/s3/multipart/{made['uploadId']}/{rest}"
    answer = keeper.call("GET", address, query_string={"key": made["key"]} | more)
    assert answer.status_code == 200, answer.text


def test_signing_asks_whose_key_it_is_and_which_upload(keeper: Keeper, asked: Counting) -> None:
    made = begun(keeper)
    asked()
    sign(keeper, made, "1")
    # The first of a minute notes that addresses are out: BEGIN, the upload, its sender, COMMIT.
    assert asked() == {"postgres": 2 + 4, "redis": 1}
    sign(keeper, made, "2")
    assert asked() == {"postgres": 2, "redis": 1}
    sign(keeper, made, "batch", partNumbers=",".join(map(str, range(1, 101))))
    assert asked() == {"postgres": 2, "redis": 1}


def test_beginning_writes_four_rows_and_asks_storage_once(keeper: Keeper, asked: Counting) -> None:
    begun(keeper)
    asked()
    begun(keeper)
    # The key; asset, upload, version and record in one transaction before storage is asked, so
    # that nothing there is nobody's; and the id that it gave, in another.
    assert asked() == {"postgres": 1 + (1 + 4 + 1) + 3, "redis": 1, "storage": 1}


def test_parts_of_a_transfer_ask_for_the_transfer_as_well(keeper: Keeper, asked: Counting) -> None:
    file = {"path": "a.mov", "size": 1024 * MIB}
    made = keeper.call("POST", "/transfers", json={"files": [file]}).json
    wanted = {"file": made["files"][0]["id"], "numbers": list(range(1, 33))}

    def parts(**more: Any) -> Counter[str]:
        asked()
        body = {"wanted": [wanted]} | more
        answer = keeper.call("POST", f"/transfers/{made['id']}/parts", json=body)
        assert (answer.status_code, len(answer.json["parts"])) == (200, 32), answer.text
        return asked()

    assert parts()["storage"] == 1
    assert parts() == {"postgres": 3, "redis": 1}
    # How much is safe is written whenever there is more.
    assert parts(sent_size=5) == {"postgres": 3 + 4, "redis": 1}
    assert parts(sent_size=5) == {"postgres": 3, "redis": 1}


@pytest.mark.parametrize("dialect", ["native", "/v2"])
def test_whether_a_transfer_has_expired_is_read_with_it(
    client: FlaskClient, asked: Counting, dialect: str
) -> None:
    """A READY one costs no question more than one that is being sent, which never expires."""
    machine = Machine(client)
    made = machine.create({"a": b"1"})

    def show() -> Counter[str]:
        asked()
        if dialect == "native":
            answer = machine.native("GET", f"/{made['id']}")
        else:
            answer = machine.call("GET", f"/transfers/{made['id']}")
        assert answer.status_code == 200, answer.text
        return asked()

    show()
    being_sent = show()
    machine.upload(made, {"a": b"1"})
    assert machine.call("PUT", f"/transfers/{made['id']}/finalize").status_code == 200
    machine.process(made["id"])
    # Only of a READY one does the native API ask for files that are being added.
    batches = Counter(postgres=1 if dialect == "native" else 0)
    assert show() == being_sent + batches


def test_no_address_outlives_what_is_noted_of_it(keeper: Keeper, client: FlaskClient) -> None:
    """Bytes that may still come are waited for, so the note must be ahead of every address."""
    made = begun(keeper)

    def left() -> float:
        with client.application.app_context():
            row = db.session.query(Upload).filter(Upload.key == made["key"])
            until = row.with_entities(Upload.urls_until - db.func.statement_timestamp())
            return until.scalar().total_seconds()

    ttl = 3600
    sign(keeper, made, "1")
    assert ttl + 50 < left() <= ttl + 60
    for ahead, is_written in ((30, False), (-1, True)):
        with client.application.app_context(), transaction():
            noted = db.func.statement_timestamp() + db.text(f"interval '{ttl + ahead} seconds'")
            change = update(Upload).where(Upload.key == made["key"]).values(urls_until=noted)
            db.session.execute(change)
        sign(keeper, made, "2")
        assert left() >= ttl
        assert (left() > ttl + 50) is is_written
