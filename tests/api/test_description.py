"""Every operation of openapi.yaml against thousands of requests made from it: right and wrong ones.

No request is answered by 5xx, by a status or a body that is not described, or by 2xx where the
description forbids it. CASES and SEED in the environment make it as long as one likes.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from flask import Flask
from hypothesis import HealthCheck, seed, settings
from schemathesis import GenerationMode

from tests.factories import Sender, Sent

# One transaction for thousands of requests would end with the first query that is late.
pytestmark = pytest.mark.real_commits
CASES = int(os.environ.get("CASES", "10"))
SEED = int(os.environ.get("SEED", "8"))


class _Application:
    """Stands for the application, which is made when the first test runs."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return self.real(environ, start_response)


application = _Application()
schema = schemathesis.openapi.from_dict(
    yaml.safe_load(Path("app/api/openapi.yaml").read_text()),
)
schema.app = application
schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
# A wrong token is answered as an unknown transfer is, so that nobody learns which there are.
schema.config.checks.ignored_auth.enabled = False
# A date that is over, or a part that was not planned, is refused though its form is right.
schema.config.checks.positive_data_acceptance.enabled = False


@pytest.fixture(autouse=True)
def _made(app: Flask, configure: Callable[..., None]) -> None:
    application.real = app
    # Where there is none, most of what can be said of mail is refused before it is looked at.
    configure(mail_url="file:///nobody/sends/it")


@schema.parametrize()
@seed(SEED)
@settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_described(case: schemathesis.Case, sender: Sender) -> None:
    """Right cases ask for transfers that are there, in each stage, with their owner's token."""
    needs_owner = bool(case.operation.definition.raw.get("security"))
    if not needs_owner or not case.meta.generation.mode.is_positive:
        case.call_and_validate()
        return
    for stage in (Sender.create, _processing, _deleted):
        sent = stage(sender)
        case.path_parameters["transfer_id"] = str(sent.id)
        if "file_id" in case.path_parameters:
            case.path_parameters["file_id"] = sent.files[0]["id"]
        case.headers["Authorization"] = sent.headers["Authorization"]
        case.call_and_validate()


def _processing(sender: Sender) -> Sent:
    return sender.create().complete()


def _deleted(sender: Sender) -> Sent:
    sent = sender.create()
    sent.call("DELETE")
    return sent
