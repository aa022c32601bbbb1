"""Checks of the URLs that browsers are given: whether they suit the installation, and answer."""

import ipaddress
import json
from urllib.parse import urlsplit

from app.config import settings
from app.extensions import storage
from app.gateways import plain_http
from app.services.doctor.findings import Finding, failed, ok, warning


def _is_here(url: str) -> bool:
    """Whether the URL leads to the machine of whoever opens it."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def base_url() -> Finding:
    """Whether the pages are served in a way that browsers consider secure."""
    if settings.is_https or _is_here(settings.base_url):
        return ok(f"The address of the pages is {settings.base_url}.")
    return warning(
        f"{settings.base_url} is not encrypted: links and passwords can be read on the way, and "
        "browsers withhold from such pages what two tabs need to agree on one upload. Set up TLS "
        "at the proxy in front, and make BASE_URL begin with https://."
    )


def site() -> Finding:
    """Whether BASE_URL leads to this installation, through whatever is in front of it."""
    try:
        health = plain_http.send("GET", f"{settings.base_url}/health")
        page = plain_http.send("GET", f"{settings.base_url}/")
    except plain_http.Unreachable as error:
        return warning(
            f"{settings.base_url} does not answer this machine ({error}). If a browser cannot open "
            "it either, look at its DNS entry, its certificate, the proxy in front, and whether "
            "`web` runs."
        )
    if page.status == 421:
        return failed(
            "The proxy in front does not pass the Host header on, so every page is refused. Make "
            "it do so (nginx: proxy_set_header Host $host), or add its name to ALLOWED_HOSTS."
        )
    if page.headers.get("location", "").rstrip("/") == settings.base_url:
        return failed(
            "Every page redirects to itself, because Beeline is not told that people come by "
            "https. Set TRUSTED_PROXIES to the number of proxies in front, and make the nearest "
            "one set X-Forwarded-Proto."
        )
    if page.status != 200 or not _is_ours(health):
        return failed(
            f"{settings.base_url} does not lead to Beeline (status {page.status}). Correct "
            "BASE_URL, its DNS entry or the proxy in front, or start `web`."
        )
    return ok(f"{settings.base_url} answers.")


def _is_ours(health: plain_http.Reply) -> bool:
    try:
        return health.status == 200 and json.loads(health.body) == {"status": "OK"}
    except ValueError:
        return False


def storage_address() -> Finding:
    """Whether browsers can reach storage at the address that they are given, and may use it."""
    origin = storage.urls.origin
    is_elsewhere = _is_here(origin) and not _is_here(settings.base_url)
    if is_elsewhere:
        return failed(
            f"Browsers are sent to {origin}, which is their own machine. Set "
            "S3_PUBLIC_ENDPOINT_URL to the address at which they reach storage."
        )
    if settings.is_https and not origin.startswith("https://") and not _is_here(origin):
        return failed(
            f"Browsers refuse to send files from a page of https to {origin}. Give storage TLS, "
            "and make S3_PUBLIC_ENDPOINT_URL (or S3_ENDPOINT_URL) begin with https://."
        )
    try:
        plain_http.send("GET", origin)
    except plain_http.Unreachable as error:
        return failed(
            f"{origin} does not answer ({error}). Browsers send files there: start storage, or "
            "correct S3_PUBLIC_ENDPOINT_URL or, without that, S3_ENDPOINT_URL."
        )
    return ok(f"{origin} answers.")
