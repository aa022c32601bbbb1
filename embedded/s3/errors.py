"""The exceptions of this package: errors as S3 names them, with their HTTP status, and 304."""

STATUS = {
    "AccessDenied": 403,
    "AccessForbidden": 403,
    "BucketAlreadyOwnedByYou": 409,
    "BucketNotEmpty": 409,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "InvalidRange": 416,
    "MethodNotAllowed": 405,
    "MissingContentLength": 411,
    "NoSuchBucket": 404,
    "NoSuchCORSConfiguration": 404,
    "NoSuchKey": 404,
    "NoSuchLifecycleConfiguration": 404,
    "NoSuchUpload": 404,
    "NotImplemented": 501,
    "PreconditionFailed": 412,
    "RequestTimeTooSkewed": 403,
    "SignatureDoesNotMatch": 403,
}
"""Every code that is not answered with 400."""


class S3Error(Exception):
    """Sent to the client as S3's error document; `facts` become further elements of it."""

    def __init__(self, code: str, message: str, **facts: str | int) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = STATUS.get(code, 400)
        self.facts = facts


class NotModified(Exception):
    """Raised by a conditional read whose answer is 304, without a body."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__("304")
        self.headers = headers
