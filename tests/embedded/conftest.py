"""One S3 endpoint for all tests that leave it as it is, and buckets in it."""

from itertools import count

import pytest

from tests.embedded.endpoint import MIN_PART, Endpoint, Multipart, noise

NUMBERS = count(1)


@pytest.fixture(scope="package")
def endpoint(tmp_path_factory):
    endpoint = Endpoint(tmp_path_factory.mktemp("s3"))
    yield endpoint
    assert endpoint.end() == 0


@pytest.fixture(scope="package")
def s3(endpoint):
    client = endpoint.client()
    yield client
    client.close()


@pytest.fixture
def bucket(s3):
    name = f"bucket-{next(NUMBERS)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="package")
def pieces(s3):
    """An object of three parts, in its own bucket; returns its bytes."""
    s3.create_bucket(Bucket="pieces")
    data = [noise(MIN_PART, 1), noise(MIN_PART, 2), noise(1000, 3)]
    upload = Multipart(s3, "pieces", "k", ContentType="text/plain")
    upload.complete(*((n, upload.put(n, part)) for n, part in enumerate(data, 1)))
    return b"".join(data)
