"""Programs that keep assets, for all tests of the API."""

import pytest
from flask.testing import FlaskClient

from tests.keeper import Keeper


@pytest.fixture
def keeper(client: FlaskClient) -> Keeper:
    return Keeper(client)


@pytest.fixture
def stranger(client: FlaskClient) -> Keeper:
    return Keeper(client, "Other")
