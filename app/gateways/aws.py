"""boto3 clients for Amazon's services other than S3: SES, SNS and SQS.

They use the bucket's access key if the bucket is at Amazon too, and boto3's default credential
chain otherwise.
"""

from typing import Any

from app.config import Settings


def client(
    service: str, region: str, settings: Settings, *, endpoint_url: str, read_seconds: float
) -> Any:
    """Make a client that does not retry: its callers do so themselves, and later."""
    # Imported here because an installation may use none of these services, and loading boto3
    # takes as long as loading Flask.
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
