"""The project's own rules: guards, jobs, queues, OpenAPI, transactions, imports, htmx."""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from flask import Flask
from openapi_spec_validator import validate
from rq.utils import import_attribute

from app import description, errors, jobs, logs, static_files
from app.config import MIB
from app.models import File, Harm, Scope
from app.services import (
    abuse,
    archives,
    blocklist,
    blocklist_scan,
    heartbeats,
    previewing,
    transfers,
    upkeep,
)
from tests.described import parameter, path_of
from tests.factories import Machine, Program, Sender
from tests.pictures import drawn, encoded
from tests.watching import Watch

ALL_JOBS = [job for job in vars(jobs).values() if isinstance(job, jobs.Job)]
GUARDS = {
    "anyone",
    "uploader",
    *(f"{kind}:{scope}" for kind in ("anyone-or-key", "owner", "key", "member") for scope in Scope),
}
EXPLAINED = {"F": Path("docs/reliability.md"), "S": Path("SECURITY.md")}
DESCRIPTION = description.document()
# The SHA-256 of htmx 2.0.3's htmx.min.js, as published on npm.
HTMX_SHA256 = "491955cd1810747d7d7b9ccb936400afb760e06d25d53e4572b64b6563b2784e"


@pytest.mark.parametrize("job", ALL_JOBS, ids=lambda job: job.name)
def test_a_job_names_an_existing_function_and_queue(job: jobs.Job) -> None:
    assert callable(import_attribute(job.path))
    assert job.queue in jobs.QUEUES


def test_every_queue_has_workers_and_slow_jobs_have_their_own() -> None:
    """F35: checking a file does not wait for the zip of another transfer."""
    started = dict(line.split(": ", 1) for line in Path("Procfile").read_text().splitlines())
    taken = {name: started[name].split()[2:] for name in ("worker", "maker")}
    assert taken == {"worker": jobs.QUICK_QUEUES, "maker": jobs.SLOW_QUEUES}
    assert jobs.PROCESS_TRANSFER.queue in taken["worker"]
    slow = {jobs.BUILD_ARCHIVE.queue, jobs.MAKE_PREVIEWS.queue}
    assert slow <= set(taken["maker"])
    assert slow.isdisjoint(taken["worker"])


def test_the_operators_guide_lists_every_queue_and_every_scheduled_job() -> None:
    told = Path("docs/operate.md").read_text().partition("## What happens by itself\n")[2]
    seconds = {"s": 1, "min": 60, "h": 3600, "day": 86400}
    rows = re.findall(r"^\| (\d+) (\w+) \| `(\w+)` \| \S", told, re.MULTILINE)
    assert [(int(count) * seconds[unit], name) for count, unit, name in rows] == [
        (interval, heartbeats.name_of(job)) for interval, job in jobs.SCHEDULE
    ]
    queues = re.search(r"^Jobs wait in queues.*?(?= `worker` has)", told, re.MULTILINE | re.DOTALL)
    assert re.findall(r"`(\w+)`", queues[0]) == jobs.QUEUES


def test_every_api_route_declares_its_guard_and_is_described(app: Flask) -> None:
    described = {
        (method.upper(), re.sub(r"{(\w+)}", r"<\1>", path))
        for path, item in DESCRIPTION["paths"].items()
        for method in item
        if method != "parameters"
    }
    routed = set()
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        if not view.__module__.startswith("app.api."):
            continue
        assert getattr(view, "guard", None) in GUARDS, rule.endpoint
        path = re.sub(r"<\w+:(\w+)>", r"<\1>", rule.rule)
        routed |= {(method, path) for method in rule.methods - {"HEAD", "OPTIONS"}}
    assert routed == described
    validate(DESCRIPTION)


KEYS = {"api_key", "workspace_key", "admin_key"}
OPENED_BY = {
    "anyone": set(),
    "anyone-or-key": {"workspace_key"},
    "owner": {"owner_token", "workspace_key"},
    "member": {"api_key", "user_token"},
}


def test_every_parameter_and_key_is_described(app: Flask) -> None:
    """Each route's path parameters, and that it requires a key if its guard does."""
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        if not view.__module__.startswith("app.api."):
            continue
        item = DESCRIPTION["paths"][path_of(rule.rule)]
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            said = item[method.lower()]
            given = [
                parameter(one) for one in item.get("parameters", []) + said.get("parameters", [])
            ]
            pieces = {one["name"] for one in given if one["in"] == "path"}
            assert pieces == rule.arguments, rule
            opened_by = {name for one in said.get("security", []) for name in one}
            kind = "anyone" if "session" in pieces else view.guard.partition(":")[0]
            if kind in OPENED_BY:
                assert opened_by == OPENED_BY[kind], rule
            else:
                assert opened_by, rule
                assert opened_by <= KEYS, rule
            if view.guard.endswith((":write", ":admin")):
                assert "403" in said["responses"], f"{rule}: a key may be of less scope"
            assert said.get("operationId")
            assert said.get("summary")


def test_every_operation_that_may_answer_401_may_answer_429() -> None:
    """Calls with a key are rate-limited, and so are tries with wrong keys (app/request_guards.py)."""
    for path, operations in DESCRIPTION["paths"].items():
        for method, operation in operations.items():
            if method != "parameters" and "401" in operation["responses"]:
                assert "429" in operation["responses"], f"{method} {path}"


def test_whoever_may_send_too_much_may_send_it_too_slowly() -> None:
    """Each route that reads a body says both (app/request_guards.py)."""
    for path, operations in DESCRIPTION["paths"].items():
        for method, operation in operations.items():
            told = {"408", "413"} & set(operation["responses"] if method != "parameters" else ())
            assert len(told) != 1, f"{method} {path}"


def test_every_error_code_is_described() -> None:
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.AppError)
    }
    problem = DESCRIPTION["components"]["schemas"]["Problem"]["properties"]["error"]
    assert {kind.code for kind in kinds} == set(problem["properties"]["code"]["enum"])


def test_only_db_commits() -> None:
    for path in Path("app").rglob("*.py"):
        if path.name != "db.py":
            assert not re.search(r"\.(commit|rollback)\(\)", path.read_text()), path


def test_what_a_log_line_is_given_is_logged() -> None:
    """Other fields than the known ones are left out, and with them what the line is about."""
    given = [
        ast.literal_eval(key)
        for path in Path("app").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        for said in call.keywords
        if said.arg == "extra" and isinstance(said.value, ast.Dict)
        for key in said.value.keys
        if key is not None
    ]
    assert set(given) == set(logs.FIELDS)


def _writes_of_a_transfers_state(source: str) -> list[str]:
    """The statements and assignments in this code that change a transfer's state."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr="values", value=statement)):
                given = ", ".join(map(ast.unparse, [*node.args, *node.keywords]))
                names_state = re.search(r"\bstate'?[=:]", given)
                is_write = names_state and "update(Transfer)" in ast.unparse(statement)
            case ast.Assign(targets=[ast.Attribute(attr="state")], value=value):
                is_write = re.search(r"\bState\.", ast.unparse(value))
            case _:
                continue
        if is_write:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "source",
    [
        "run(update(Transfer).where(Transfer.id.in_(ids)).values(title='', state=State.READY))",
        "update(Transfer).values(expires_at=db_now(), state=to)",
        "update(Transfer).values({'state': State.READY})",
        "update(Transfer).values({Transfer.state: State.READY})",
        "transfer.state = State.READY",
        "transfer.state = State.READY if is_whole else State.INIT",
    ],
)
def test_a_write_of_a_transfers_state_is_recognised(source: str) -> None:
    assert _writes_of_a_transfers_state(source)


def test_only_lifecycle_writes_a_transfers_state() -> None:
    for path in Path("app").rglob("*.py"):
        if path.name != "lifecycle.py":
            assert _writes_of_a_transfers_state(path.read_text()) == [], path


def test_the_description_of_the_code_lists_every_file() -> None:
    told = Path("docs/architecture.md").read_text()
    tree = told.partition("## The tree\n")[2].partition("## ")[0]
    tables = told.partition("## The services")[2].partition("## ")[0]
    services, _, gateways = tables.partition("And the gateways:")
    places = {
        "app": set(re.findall(r"(\w+)\.py\b", tree)),
        "services": set(re.findall(r"`(\w+)`", services)),
        "doctor": set(re.findall(r"`(\w+)`", services.partition("`doctor/`")[2])),
        "gateways": set(re.findall(r"`(\w+)`", gateways)),
    }
    for folder in ("models", "api", "pages"):
        # The folder's line and its continuation lines; brackets describe the name before them.
        (lines,) = re.findall(rf"^    {folder}/(.*(?:\n {{20}}.*)*)", tree, re.MULTILINE)
        places[folder] = set(re.findall(r"\w+", re.sub(r"\([^)]*\)", "", lines)))
    for path in Path("app").rglob("*.py"):
        assert path.stem == "__init__" or path.stem in places[path.parent.name], path


def _broken_contracts(tree: Path, **additions: str) -> str:
    """import-linter's report on a copy of the code with these lines added to its modules."""
    for name in ("app", "embedded"):
        shutil.copytree(name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy("pyproject.toml", tree)
    for name, line in additions.items():
        with (tree / "app" / f"{name.replace('__', '/')}.py").open("a") as module:
            module.write(f"\n{line}\n")
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    return done.stdout


def test_the_contracts_about_imports_can_be_broken(tmp_path: Path) -> None:
    """A rule that cannot be broken proves nothing: `make check` only shows that all hold."""
    report = _broken_contracts(
        tmp_path,
        stray="",
        zip_parts="from app.services import transfers",
        api__assets="from app.api import wetransfer",
        services__media_kinds="import flask",
        problems="import boto3",
        static_files="import redis, rq",
        words="import smtplib",
        links="import embedded.services",
    )
    assert "5 broken" in report
    for broken in (
        "- app.stray",
        "app.zip_parts -> app.services.transfers",
        "app.api.assets -> app.api.wetransfer",
        "app.services.media_kinds -> flask",
        "app.problems -> boto3",
        "app.static_files -> redis",
        "app.static_files -> rq",
        "app.words -> smtplib",
        "app.links -> embedded.services",
    ):
        assert broken in report


def test_every_number_of_a_fault_or_threat_is_explained() -> None:
    """Tests name them as F09 or test_f09_..., S19 or test_s19_..."""
    told = {letter: page.read_text() for letter, page in EXPLAINED.items()}
    for path in Path("tests").rglob("*.py"):
        for letter, number in re.findall(
            r"(?<![A-Za-z0-9%])([FSfs])(\d\d)(?=_|\b)", path.read_text()
        ):
            row = rf"^\| [S\d, ]*{letter.upper()}{number}\b"
            assert re.search(row, told[letter.upper()], re.MULTILINE), (path, letter + number)


def test_the_upload_engine_touches_no_page() -> None:
    """The engine runs under `node --test`; code that touches the DOM is in static/js/sender/."""
    for path in Path("static/js/upload").glob("*.js"):
        assert "document." not in path.read_text(), path


def test_htmx_is_the_reviewed_version() -> None:
    assert hashlib.sha256(static_files.htmx().read_bytes()).hexdigest() == HTMX_SHA256


@pytest.mark.real_commits
def test_no_transaction_is_open_while_storage_is_asked(
    app: Flask, sender: Sender, machine: Machine, program: Program, watch: Watch
) -> None:
    contents = {"a": b"1", "big": b"b" * (8 * MIB + 1), "photo.png": encoded(drawn(), "PNG")}
    sent = sender.create(contents, verified=True)
    assert watch.asked == ["CreateMultipartUpload", "AbortMultipartUpload"]  # what can storage do?
    sent.upload()
    assert sent.call("GET", "/parts").status_code == 200
    sent.complete().process()
    assert sent.show()["status"] == "READY"
    made = machine.create({"empty": b"", "a": b"1"})
    machine.send(f"/transfers/{made['id']}", made["files"][1], b"1")
    assert machine.call("PUT", f"/transfers/{made['id']}/finalize").status_code == 200
    machine.put_one(b"1")
    program.file()
    with app.app_context():
        previewing.make(str(sent.id))
        archives.request(sent.id)
        archives.build(str(sent.id))
        abuse.quarantine(sent.id)
        blocklist.block_files(sent.id, Harm.OTHER, ["big"])
        (file,) = transfers.files_of(sent.id, File.path == "big")
        blocklist_scan.inspect(str(file.upload_id))
        transfers.delete(sent.id)
        upkeep.remove_bytes()
        upkeep.abort_unknown_uploads()
    assert {
        "CreateMultipartUpload by ourselves",
        "ListParts",
        "CompleteMultipartUpload",
        "HeadObject",
    } <= set(watch.asked)
    assert {"GetObject", "PutObject", "UploadPart", "UploadPartCopy"} <= set(watch.asked)
    assert {"GetObject", "PutObject", "UploadPart", "CopyObject"} <= set(watch.asked)
    assert {"DeleteObjects", "AbortMultipartUpload", "ListMultipartUploads"} <= set(watch.asked)
    assert watch.idle == []


def test_no_thread_of_ours_outlives_its_work(sender: Sender) -> None:
    sender.ready()
    assert [t.name for t in threading.enumerate() if "_beat" in t.name] == []


def test_slow_imports_are_only_made_where_they_are_needed(environ: dict[str, str]) -> None:
    """Each module of `late` takes as long to import as all of our routes.

    The worker imports boto3's client before it forks, so that its children need not.
    """
    late = {"alembic", "boto3", "botocore.session", "botocore.client", "jwt", "valkey"}
    made = "import sys, app; app.create_app(); print(*sys.modules)"
    ready = "import sys, app; app.create_app(); app.get_ready(); before = set(sys.modules)"
    client = "from app.extensions import storage; storage._client; storage._clients.patient"
    same = f"{ready}; {client}; assert set(sys.modules) == before; print(*before)"
    of_a_clock, of_a_worker = (
        set(subprocess.check_output([sys.executable, "-c", code], env=os.environ | environ).split())
        for code in (made, same)
    )
    assert {name.encode() for name in late}.isdisjoint(of_a_clock)
    assert of_a_worker >= {b"botocore.client", b"botocore.session"}


def test_a_job_does_not_look_for_garbage_in_what_its_worker_has_loaded(
    environ: dict[str, str],
) -> None:
    code = "import gc, app; app.create_app(); app.get_ready(); print(len(gc.get_objects()))"
    watched = subprocess.check_output([sys.executable, "-c", code], env=os.environ | environ)
    assert int(watched) < 1000
