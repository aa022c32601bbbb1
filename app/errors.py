"""The catalogue of everything that can go wrong on purpose.

Services raise these; they carry a code, a status, a sentence for people and details, and know
nothing about JSON or pages. Shaping them is `problems.py`'s work.
"""

import math
from typing import Any


class AppError(Exception):
    """Something that may be told to whoever asked."""

    code = "internal"
    status = 500
    title = "Something went wrong on our side."
    retry_after: int | None = None
    # What a 401 asks for; browsers know neither of ours and show the page.
    challenge: str | None = None

    def __init__(self, title: str | None = None, **details: Any) -> None:
        self.title = title or type(self).title
        self.details = details
        super().__init__(self.title)


class Invalid(AppError):
    """What was given cannot be used; `fields` says which of it and why."""

    code = "invalid"
    status = 400
    title = "Some of what was sent cannot be used."

    def __init__(self, fields: dict[str, str], title: str | None = None) -> None:
        self.fields = fields
        first = next(iter(fields.items()), None)
        super().__init__(title or (f"{first[0]}: {first[1]}" if first else None))


class BadRequest(AppError):
    """The request could not be read at all."""

    code = "bad_request"
    status = 400
    title = "This request could not be read."


class Unauthorized(AppError):
    """Nobody said who is asking."""

    code = "unauthorized"
    status = 401
    title = "This needs the transfer's own key."
    challenge = "Bearer"


class PasswordNeeded(AppError):
    """The transfer is protected, and whoever asks has not opened it (or no longer has)."""

    code = "password_needed"
    status = 401
    title = "This needs a password."
    challenge = "Form"


class PasswordWrong(PasswordNeeded):
    """Another password than the transfer's."""

    code = "password_wrong"
    title = "That password is not right."


class NotAllowed(AppError):
    """Known, and still not allowed."""

    code = "forbidden"
    status = 403
    title = "This is not allowed."


class Blocked(NotAllowed):
    """The operator has quarantined the transfer; its sender may look at it or delete it."""

    code = "blocked"
    title = "Whoever runs this site has blocked this transfer."


class NotFound(AppError):
    """No such thing, or not for whoever asks: the two look the same."""

    code = "not_found"
    status = 404
    title = "There is nothing here."


class MethodNotAllowed(AppError):
    """The address exists, but not for this method."""

    code = "method_not_allowed"
    status = 405
    title = "This address does not do that."


class Gone(AppError):
    """It was here and is no more; `reason` is expired, deleted, limit_reached or unavailable."""

    code = "gone"
    status = 410
    title = "This transfer is no longer available."

    def __init__(self, title: str | None = None, reason: str = "deleted") -> None:
        super().__init__(title, reason=reason)


class TransferExpired(Gone):
    """Its date is over, told to its sender's program."""

    code = "transfer_expired"
    title = "This transfer has expired."

    def __init__(self) -> None:
        super().__init__(reason="expired")


class LimitReached(Gone):
    """All its downloads have been used, told to its sender's program."""

    code = "transfer_limit_reached"
    title = "All downloads of this transfer have been used."

    def __init__(self) -> None:
        super().__init__(reason="limit_reached")


class WrongState(AppError):
    """It cannot be done in the state the transfer is in now."""

    code = "wrong_state"
    status = 409
    title = "The transfer is not in a state that allows this."


class NotNow(WrongState):
    """The same where a contract has 400 for it."""

    status = 400


class ChangedMeanwhile(WrongState):
    """Somebody else has changed the same; `changed` lists what."""

    code = "changed_meanwhile"
    title = "Somebody else has changed this meanwhile."

    def __init__(self, changed: list[str]) -> None:
        super().__init__(changed=changed)


class PreconditionFailed(AppError):
    """If-Match names another version than there is now."""

    code = "precondition_failed"
    status = 412
    title = "Somebody else has changed this meanwhile. Read it again first."


class KeyReused(AppError):
    """An Idempotency-Key that came with another request before."""

    code = "idempotency_key_reused"
    status = 422
    title = "This Idempotency-Key was used for another request."


class UploadNotValid(AppError):
    """What an upload URL leads to is not a file that can be taken."""

    code = "upload_validation_failed"
    status = 502
    title = "upload validation failed: nothing has arrived at the upload URL"


class PartsMissing(AppError):
    """Storage does not hold the whole file yet; `missing` lists the part numbers."""

    code = "parts_missing"
    status = 409
    title = "Some of this file has not arrived yet."


class SizeMismatch(AppError):
    """Storage holds another number of bytes than was planned."""

    code = "size_mismatch"
    status = 409
    title = "What arrived is not as long as the file."


class TooLarge(AppError):
    """The request's own body is over the limit."""

    code = "too_large"
    status = 413
    title = "This request is too large."


class WrongType(AppError):
    """A JSON route was given something else."""

    code = "unsupported_media_type"
    status = 415
    title = "Send this as application/json."


class Unavailable(AppError):
    """Something we depend on does not answer; asking again later is right."""

    code = "unavailable"
    status = 503
    title = "Something we need is not answering right now. Please try again in a moment."
    retry_after = 5


class Outage(Unavailable):
    """It does not answer at all: nobody's fault here, and over when it is over."""


class ZipFailed(AppError):
    """The zip of all files could not be made; a minute after that it may be tried again."""

    code = "zip_failed"
    status = 503
    title = (
        "The zip could not be made: something went wrong on our side. "
        "Each file can still be downloaded by itself."
    )
    retry_after: int | None = 60


class ZipLacksFile(ZipFailed):
    """Nor will it be: what a program tries again by itself is no answer to that."""

    code = "zip_lacks_file"
    status = 409
    title = (
        "The zip could not be made: storage has lost one of the files. "
        "Each of the others can still be downloaded by itself."
    )
    retry_after = None


class NoMail(AppError):
    """No mail goes out from here, and asking again will not change that."""

    code = "mail_not_configured"
    status = 503
    title = "No mail is sent from here: its operator has not set it up."


class TooMany(AppError):
    """One address asks for more than its share."""

    code = "too_many"
    status = 429
    title = "That is a lot at once. Please wait a little."
    retry_after = 60


class TooManyTries(TooMany):
    """Passwords are tried faster than a person who has forgotten one would; good in `seconds`."""

    code = "too_many_tries"

    def __init__(self, seconds: float) -> None:
        whole = max(1, math.ceil(seconds))
        wait = (whole, "second") if whole <= 90 else (math.ceil(whole / 60), "minute")
        unit = wait[1] if wait[0] == 1 else f"{wait[1]}s"
        super().__init__(f"Too many tries. Try again in {wait[0]} {unit}.")
        self.retry_after = whole


class TooManyWrongKeys(TooMany):
    """Wrong API keys were sent too often; apart, so that a dialect may answer as to one of them."""


class TooMuchMail(TooMany):
    """More mail than is reasonable was asked for; good again when some time has passed."""

    code = "too_much_mail"
    title = "That is a lot of mail at once. Please share the link, or try again later."
    retry_after = 900


class HostUnknown(AppError):
    """The request was for an address that is not ours."""

    code = "host_unknown"
    status = 421
    title = "This server does not answer for that address."


class TlsRequired(AppError):
    """Asked without TLS where people reach us with it."""

    code = "tls_required"
    status = 403
    title = "Use https for this."


class TooSlow(AppError):
    """The request's body did not come in time."""

    code = "too_slow"
    status = 408
    title = "This request took too long to arrive."
