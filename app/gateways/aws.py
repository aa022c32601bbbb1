"""Clients of Amazon's services beside the bucket: SES, SNS and SQS.

Credentials are found as boto3 finds them, or are those of a bucket that is Amazon's too.
"""

from typing import Any

from app.config import Settings


def client(
    service: str, region: str, settings: Settings, *, endpoint_url: str, read_seconds: float
) -> Any:
    """One that asks once: whoever uses it tries again by itself, and later."""
    # Here, because an installation may have neither, and loading them takes as long as Flask.
    import boto3
    from botocore.config import Config

    own = {}
    if settings.s3_access_key_id and not settings.s3_endpoint_url:
        own["aws_access_key_id"] = settings.s3_access_key_id
        own["aws_secret_access_key"] = settings.s3_secret_access_key
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=endpoint_url or None,
        config=Config(
            connect_timeout=min(read_seconds, 10.0),
            read_timeout=read_seconds,
            retries={"total_max_attempts": 1},
        ),
        **own,
    )
