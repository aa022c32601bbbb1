"""The catalogue of all expected errors.

Services raise these. They carry a code, a status, a sentence for people and details, and know
nothing about JSON or pages: `problems.py` makes responses of them.
"""

import math
from typing import Any


class AppError(Exception):
    """An error that may be shown to the client."""

    code = "internal"
    status = 500
    title = "Something went wrong on our side."
    retry_after: int | None = None
    # The WWW-Authenticate of a 401; browsers know neither of our schemes and show the page.
    challenge: str | None = None

    def __init__(self, title: str | None = None, **details: Any) -> None:
        self.title = title or type(self).title
        self.details = details
        super().__init__(self.title)


class Invalid(AppError):
    """The input cannot be used; `fields` maps each bad field to the reason."""

    code = "invalid"
    status = 400
    title = "Some of what was sent cannot be used."

    def __init__(self, fields: dict[str, str], title: str | None = None) -> None:
        self.fields = fields
        first = next(iter(fields.items()), None)
        super().__init__(title or (f"{first[0]}: {first[1]}" if first else None))


class BadRequest(AppError):
    """The request could not be parsed at all."""

    code = "bad_request"
    status = 400
    title = "This request could not be read."


class Unauthorized(AppError):
    """The request carries no credentials, or no valid ones."""

    code = "unauthorized"
    status = 401
    title = "This needs the transfer's owner token."
    challenge = "Bearer"


class PasswordNeeded(AppError):
    """The transfer has a password, and this client has not given it, or not recently enough."""

    code = "password_needed"
    status = 401
    title = "This needs a password."
    challenge = "Form"


class PasswordWrong(PasswordNeeded):
    """The password is not the transfer's."""

    code = "password_wrong"
    title = "That password is not right."


class NotAllowed(AppError):
    """The caller is known, but may not do this."""

    code = "forbidden"
    status = 403
    title = "This is not allowed."


class SenderNotAllowed(NotAllowed):
    """Not everyone may send from this site, and it was not proven that this sender may."""

    code = "sender_not_allowed"
    title = "Only people who were given permission can send files from this site."


class Blocked(NotAllowed):
    """The operator has quarantined the transfer; its sender may still look at it or delete it."""

    code = "blocked"
    title = "The operator of this site has blocked this transfer."


class NotFound(AppError):
    """It does not exist, or not for this caller: the two look the same."""

    code = "not_found"
    status = 404
    title = "There is nothing here."


class MethodNotAllowed(AppError):
    """The URL exists, but not for this method."""

    code = "method_not_allowed"
    status = 405
    title = "This address does not support that method."


class Gone(AppError):
    """It no longer exists.

    `reason` is expired, deleted, limit_reached, unavailable, revoked or closed.
    """

    code = "gone"
    status = 410
    title = "This transfer is no longer available."

    def __init__(self, title: str | None = None, reason: str = "deleted") -> None:
        super().__init__(title, reason=reason)


class TransferExpired(Gone):
    """The transfer is past its date; for its sender's program."""

    code = "transfer_expired"
    title = "This transfer has expired."

    def __init__(self) -> None:
        super().__init__(reason="expired")


class LimitReached(Gone):
    """All downloads of the transfer have been used; for its sender's program."""

    code = "transfer_limit_reached"
    title = "All downloads of this transfer have been used."

    def __init__(self) -> None:
        super().__init__(reason="limit_reached")


class WrongState(AppError):
    """The transfer's current state does not allow this."""

    code = "wrong_state"
    status = 409
    title = "The transfer is not in a state that allows this."


class NotNow(WrongState):
    """WrongState, for routes whose contract specifies 400."""

    status = 400


class ChangedMeanwhile(WrongState):
    """A concurrent edit has changed the same fields; `changed` lists them."""

    code = "changed_meanwhile"
    title = "Someone else has changed this in the meantime."

    def __init__(self, changed: list[str]) -> None:
        super().__init__(changed=changed)


class PreconditionFailed(AppError):
    """If-Match does not name the current version."""

    code = "precondition_failed"
    status = 412
    title = "Someone else has changed this in the meantime. Read it again first."


class KeyReused(AppError):
    """The Idempotency-Key came with a different request before."""

    code = "idempotency_key_reused"
    status = 422
    title = "This Idempotency-Key was used for another request."


class UploadNotValid(AppError):
    """The upload URL holds no file that can be accepted."""

    code = "upload_validation_failed"
    status = 502
    title = "upload validation failed: nothing has arrived at the upload URL"


class PartsMissing(AppError):
    """Storage does not hold the whole file yet; `missing` lists the part numbers."""

    code = "parts_missing"
    status = 409
    title = "Some of this file has not arrived yet."


class SizeMismatch(AppError):
    """Storage holds a different number of bytes than was planned."""

    code = "size_mismatch"
    status = 409
    title = "What arrived is not the same size as the file."


class TooLarge(AppError):
    """The request's body is over the limit."""

    code = "too_large"
    status = 413
    title = "This request is too large."


class WrongType(AppError):
    """The body is not JSON, on a route that takes JSON."""

    code = "unsupported_media_type"
    status = 415
    title = "Send this as application/json."


class Unavailable(AppError):
    """A service that we depend on does not answer; clients should try again later."""

    code = "unavailable"
    status = 503
    title = "Something we need is not answering right now. Please try again in a moment."
    retry_after = 5


class Outage(Unavailable):
    """A service cannot be reached at all: not the fault of the work that needed it."""


class ZipFailed(AppError):
    """The zip of all files could not be made; it may be tried again after a minute."""

    code = "zip_failed"
    status = 503
    title = (
        "The zip could not be made: something went wrong on our side. "
        "The files can still be downloaded one by one."
    )
    retry_after: int | None = 60


class ZipLacksFile(ZipFailed):
    """The zip can never be made, because a file is lost: a status that programs do not retry."""

    code = "zip_lacks_file"
    status = 409
    title = (
        "The zip could not be made: storage has lost one of the files. "
        "The others can still be downloaded one by one."
    )
    retry_after = None


class NoMail(AppError):
    """This installation sends no mail; asking again will not change that."""

    code = "mail_not_configured"
    status = 503
    title = "This site sends no mail: its operator has not set it up."


class TooMany(AppError):
    """A rate limit has been reached."""

    code = "too_many"
    status = 429
    title = "That is a lot at once. Please wait a moment."
    retry_after = 60


class TooManyTries(TooMany):
    """Passwords are tried too fast; the next try is allowed in `seconds`."""

    code = "too_many_tries"

    def __init__(self, seconds: float) -> None:
        whole = max(1, math.ceil(seconds))
        wait = (whole, "second") if whole <= 90 else (math.ceil(whole / 60), "minute")
        unit = wait[1] if wait[0] == 1 else f"{wait[1]}s"
        super().__init__(f"Too many tries. Try again in {wait[0]} {unit}.")
        self.retry_after = whole


class TooManyWrongKeys(TooMany):
    """Too many wrong API keys. Its own class, so that a dialect may answer as to a single one."""


class TooMuchMail(TooMany):
    """A mail quota is used up for now; it recovers with time."""

    code = "too_much_mail"
    title = "That is a lot of mail at once. Please share the link, or try again later."
    retry_after = 900


class HostUnknown(AppError):
    """The Host header is not one of ours."""

    code = "host_unknown"
    status = 421
    title = "This server does not answer for that address."


class TlsRequired(AppError):
    """The request came without TLS, to a site that is served over TLS."""

    code = "tls_required"
    status = 403
    title = "Use https for this."


class TooSlow(AppError):
    """The request's body did not arrive in time."""

    code = "too_slow"
    status = 408
    title = "This request took too long to arrive."
