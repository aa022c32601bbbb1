"""Downloads without a browser: `curl -OJL <link>`, and how these differ from a mere look.

There is no button to press in a terminal, so there the GET itself is the download. It counts as one
only if the User-Agent is that of a program that people start by hand and no other header says
otherwise (decision 0005); every other GET is a look, which leads to the page and counts nothing.
"""

import re
import secrets
import threading
import uuid

from flask import Blueprint, Response, redirect, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from app import links
from app.dispositions import attachment_for_curl, safe_name
from app.errors import Unavailable
from app.models import File, UploadState
from app.password_cookies import proof_of
from app.request_guards import limit_unknown
from app.services import downloads, transfer_view

bp = Blueprint("command_line", __name__, url_prefix="/d")
limit_unknown(bp)

# The whole User-Agent: "curl/8.5.0", "Wget/1.21.3 (linux-gnu)". A program that adds more, such as
# "curl/7.64 (compatible; LinkChecker/2; +https://...)", was not started by hand.
_NAMES = "curl|wget|aria2|httpie|xh|beeline"
_PROGRAM = re.compile(rf"({_NAMES})/[\w.+-]+( \([\w .-]+\))?", re.IGNORECASE)
# How long one request for a zip waits for it, how many redirects back to it there may be (wget
# follows 20), and how many threads of a process may wait simultaneously.
WAIT_SECONDS = 5.0
MOST_TURNS = 18
_waiting = threading.BoundedSemaphore(2)
# Sent by browsers, prefetchers and crawlers, and by none of these programs by default.
_NOT_BY_HAND = (
    "Sec-Fetch-Site", "Sec-Fetch-Mode", "Origin", "From",
    "Purpose", "Sec-Purpose", "X-Purpose", "X-Moz",
)  # fmt: skip


def is_program() -> bool:
    """Whether the client is a program that a person has started in a terminal."""
    return (
        _PROGRAM.fullmatch(request.user_agent.string) is not None
        and "text/html" not in request.headers.get("Accept", "")
        and not any(name in request.headers for name in _NOT_BY_HAND)
    )


def fetches() -> bool:
    """Whether this request is a download and not a look: HEAD and OPTIONS never are."""
    return request.method == "GET" and is_program()


def fetch_transfer(slug: str) -> AnyResponse:
    """Download the only file, or list several in plain text, which does not count."""
    view = transfer_view.open_view(slug, session.get("visitor"), proof_of(slug))
    if view.file_count == 1:
        return _to_storage(slug, view.files[0])
    return Response(_list(view), mimetype="text/plain")


def fetch_zip(slug: str) -> AnyResponse:
    """Download all files as one zip; waits for one that is still being made.

    Nothing can be sent before the zip's first byte, so the client is redirected back here again
    and again, and waits some seconds each time. Only a few of the waiting clients hold a thread;
    for the others raises Unavailable, as after MOST_TURNS redirects.
    """
    turn = request.args.get("turn", 0, int)
    visitor = session.setdefault("visitor", secrets.token_urlsafe(16))
    may_wait = turn < MOST_TURNS and _waiting.acquire(blocking=False)
    try:
        seconds = WAIT_SECONDS if may_wait else 0.0
        found = downloads.zip_url(slug, visitor, proof_of(slug), wait_seconds=seconds)
    finally:
        if may_wait:
            _waiting.release()
    if found is None and not may_wait:
        raise Unavailable("The zip is still being made. Ask again in a moment.")
    if found is None:
        return redirect(links.zip_url(slug, turn=turn + 1), 303)
    return _to_address(found)


@bp.get("/<slug:slug>/files/<uuid:at>")
@bp.get("/<slug:slug>/files/<int(min=1, max=1000000):at>")
@bp.get("/<slug:slug>/<path:at>")
def fetch_file(slug: str, at: uuid.UUID | int | str) -> AnyResponse:
    """Download one file by id, number or path; redirect anything but a download to the page."""
    if not fetches():
        return redirect(url_for("transfer.show_transfer", slug=slug), 303)
    file = downloads.find_file(slug, at, session.get("visitor"), proof_of(slug))
    return _to_storage(slug, file)


def _to_storage(slug: str, file: File) -> AnyResponse:
    # A client that keeps cookies (wget, `curl -b ""`) can retry without counting again.
    visitor = session.setdefault("visitor", secrets.token_urlsafe(16))
    url = downloads.file_url(slug, file.id, visitor, proof_of(slug))
    return _to_address(downloads.DownloadUrl(url, file.name))


def _to_address(found: downloads.DownloadUrl) -> AnyResponse:
    answer = redirect(found.url, 303)
    if request.user_agent.string.lower().startswith("curl/"):
        # curl uses the first name that it is sent; storage could only send one in ASCII.
        answer.headers["Content-Disposition"] = attachment_for_curl(found.name)
    return answer


def shortest_address(view: transfer_view.TransferView) -> str:
    """Return the shortest file URL by path for an example, or by id if no path is unambiguous."""
    plain = [
        file.path
        for file in view.files
        if not file.path.startswith("files/") and file.path != "zip"
    ]
    if not plain:
        return links.file_url(view.slug, view.files[0].id)
    return links.path_url(view.slug, min(plain, key=len))


def _list(view: transfer_view.TransferView) -> str:
    """List names, without terminal control characters, each above the URL to download it from."""
    lines = [] if view.state == "ready" else ["The files have not fully arrived yet.", ""]
    for file in view.files:
        size = f"{file.size:,} {'byte' if file.size == 1 else 'bytes'}"
        name = "/".join(safe_name(piece) for piece in file.path.split("/"))
        not_yet = "" if file.upload.state is UploadState.COMPLETE else ", on its way"
        lines += [f"{name}  ({size}{not_yet})", f"  {links.file_url(view.slug, file.id)}"]
    if view.file_count > 1:
        # -f, so that a zip that takes too long ends in an exit code, not in a file with the error.
        lines += ["", "All of them, as one zip:"]
        lines += [f'  curl --retry 50 -fOJL "{links.zip_url(view.slug)}"']
        lines += ["", "All of them, separately, as one download:"]
        lines += [f'  curl -b "" -OJL "{view.link}/files/[1-{view.file_count}]"']
    return "\n".join([*lines, "", f"As JSON: {view.link}.json", f"Checksums: {view.link}.sfv", ""])
