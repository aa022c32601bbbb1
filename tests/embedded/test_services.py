"""The embedded services: they keep their data, and leave no processes behind."""

import os
import signal
import socket
import stat
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import redis

from embedded import postgres, services
from embedded.ports import free_port, is_free, usual_or_free
from embedded.var import Refused, Var
from tests.embedded.watched import Program

WRITE_THEN_WAIT = """
import sys, time, pathlib, psycopg2, redis
from embedded import services
with services.started(["postgres", "redis"], var=pathlib.Path(sys.argv[1]), sync=True) as env:
    with psycopg2.connect(env["DATABASE_URL"]) as connection:
        connection.cursor().execute("CREATE TABLE kept AS SELECT 'a row' AS what")
    redis.Redis.from_url(env["REDIS_URL"]).rpush("kept", "a job")
    print("written", flush=True)
    time.sleep(600)
"""


def rows(env: dict[str, str], query: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(env["DATABASE_URL"])) as connection:
        cursor = connection.cursor()
        cursor.execute(query)
        return cursor.fetchall()


def test_what_was_written_survives_kill_9_and_nothing_goes_on_running(tmp_path: Path) -> None:
    with Program("-c", WRITE_THEN_WAIT, tmp_path / "var") as program:
        program.line_with("written")
        assert program.below("valkey-server")
        assert program.below("bin/postgres")
        program.send(signal.SIGKILL)
        program.assert_nothing_is_left()

    with services.started(["postgres", "redis"], var=tmp_path / "var", sync=True) as env:
        assert rows(env, "SELECT what FROM kept") == [("a row",)]
        with closing(redis.Redis.from_url(env["REDIS_URL"])) as client:
            assert client.lrange("kept", 0, -1) == [b"a job"]


def test_a_pid_file_that_names_somebody_else_does_not_stop_the_database(tmp_path: Path) -> None:
    with services.started(["postgres"], var=tmp_path) as env:
        assert rows(env, "SELECT 1") == [(1,)]
        left = (tmp_path / "postgres/data/postmaster.pid").read_text()
    with Program("-c", "input()") as other:  # The same user, so PostgreSQL would trust the pid.
        pid_file = tmp_path / "postgres/data/postmaster.pid"
        pid_file.write_text(left.replace(left.split()[0], str(other._popen.pid), 1))
        with services.started(["postgres"], var=tmp_path) as env:
            assert rows(env, "SELECT 1") == [(1,)]


def test_a_half_made_database_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "postgres/data.new/base").mkdir(parents=True)
    with services.started(["postgres"], var=tmp_path) as env:
        assert rows(env, "SELECT 'é' < 'z', lower('ÄÖ')") == [(False, "äö")]


def test_without_a_folder_all_data_is_removed_afterwards(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(services.tempfile, "tempdir", str(tmp_path))
    with services.started(["redis"]):
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_one_folder_is_used_by_one_at_a_time(tmp_path: Path) -> None:
    with (
        services.started(["redis"], var=tmp_path),
        pytest.raises(Refused, match="already runs"),
        services.started(["redis"], var=tmp_path),
    ):
        pass


def test_strangers_on_this_machine_are_not_let_in(tmp_path: Path) -> None:
    with services.started(["postgres", "redis"], var=tmp_path) as env:
        address = env["DATABASE_URL"].replace("postgres:", "postgres:wrong", 1)
        with pytest.raises(psycopg2.OperationalError, match="authentication"):
            psycopg2.connect(address)
        port = int(env["REDIS_URL"].rsplit(":", 1)[1].split("/")[0])
        with (
            closing(redis.Redis(port=port, retry=services.ONCE)) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.get("anything")


def test_secrets_are_made_once_and_are_private(tmp_path: Path) -> None:
    first = Var(tmp_path / "var").secrets()
    assert Var(tmp_path / "var").secrets() == first
    assert len(set(first.values())) == len(first)
    assert min(map(len, first.values())) >= 24
    assert stat.S_IMODE((tmp_path / "var/secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "var").stat().st_mode) == 0o700


def test_a_secret_that_is_new_joins_the_old_ones(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text('{"SECRET_KEY": "mine"}')
    known = Var(tmp_path).secrets()
    assert known["SECRET_KEY"] == "mine"
    assert known["S3_SECRET_ACCESS_KEY"]


def test_data_of_another_postgresql_is_refused_and_left_alone(tmp_path: Path) -> None:
    with services.started(["postgres"], var=tmp_path):
        pass
    (tmp_path / "postgres/data/PG_VERSION").write_text("12\n")
    with (
        pytest.raises(Refused, match="PostgreSQL 12"),
        services.started(["postgres"], var=tmp_path),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root must hand PostgreSQL to another user")
def test_binaries_out_of_reach_are_copied_with_their_libraries(monkeypatch, tmp_path: Path) -> None:
    nobody = (65534, 65534)
    reachable = postgres._reachable_install(nobody).parent.parent
    tmp_path.chmod(0o700)
    out_of_reach, cache = tmp_path / "site-packages", Path("/var/tmp") / tmp_path.parent.name
    for part in (postgres.INSTALL, postgres.LIBRARIES):
        (out_of_reach / part).parent.mkdir(parents=True, exist_ok=True)
        (out_of_reach / part).symlink_to(reachable / part)
    assert not postgres._runs(out_of_reach / postgres.INSTALL, nobody)
    try:
        postgres._copy_install(out_of_reach, cache / "copy")
        assert postgres._runs(cache / "copy" / postgres.INSTALL, nobody)
        assert [one.name for one in cache.iterdir()] == ["copy"]
    finally:
        postgres.shutil.rmtree(cache)


def test_a_taken_port_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not is_free(port)
        assert usual_or_free(port) != port
    port = free_port()
    assert usual_or_free(port) == port
    assert usual_or_free(port) != port


@pytest.mark.parametrize(
    ("environ", "replaced"),
    [
        ({}, []),
        ({"DATABASE_URL": "postgres://db/x"}, ["postgres"]),
        ({"REDIS_URL": "redis://r", "MAIL_URL": "smtp://m"}, ["redis", "mail"]),
        ({"S3_BUCKET": "mine"}, ["s3"]),
        ({"S3_ENDPOINT_URL": "https://s3.example"}, ["s3"]),
        ({"S3_BUCKET": ""}, []),
    ],
)
def test_a_real_service_takes_the_place_of_ours(environ, replaced, tmp_path: Path) -> None:
    ours = [kind(Var(tmp_path)) for kind in services.ALL]
    assert [one.name for one in ours if one.is_replaced(environ)] == replaced
