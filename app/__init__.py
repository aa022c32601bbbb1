"""Beeline: big files in a straight line, from the sender's browser to S3 to the recipient.

create_app() is the table of contents: read it from top to bottom.
"""

import gc
import os
from collections.abc import Mapping

# Everything imported here lives as long as the process. Collecting garbage while it loads would
# take a third of the start-up time; freezing it afterwards also keeps these memory pages shared
# with forked children.
gc.disable()

from flask import Flask
from sqlalchemy.orm import configure_mappers
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import BaseConverter

from app import (
    browsers,
    cli,
    config,
    connections,
    logs,
    migrating,
    models,
    problems,
    request_guards,
    static_files,
    timeouts,
)
from app.api import (
    assets,
    cli_download,
    downloads,
    files,
    programs,
    senders,
    status,
    transfers,
    webhooks,
    wetransfer,
)
from app.db import db, end_session
from app.extensions import csrf, events, mailer, queue, storage
from app.pages import (
    admin,
    board,
    command_line,
    docs,
    file_requests,
    home,
    mail_links,
    manage,
    mine,
    own_keys,
    preview,
    qr_code,
    report,
    transfer,
    view,
    webhook_pages,
)

gc.freeze()
gc.enable()

__all__ = ["create_app", "get_ready", "models"]


PAGES = (
    home.bp,
    docs.bp,
    transfer.bp,
    preview.bp,
    command_line.bp,
    qr_code.bp,
    report.bp,
    mail_links.bp,
    manage.bp,
    mine.bp,
    file_requests.bp,
    own_keys.bp,
    admin.bp,
    board.bp,
    webhook_pages.bp,
    # Public JSON and text.
    status.bp,
    downloads.bp,
    cli_download.bp,
)
# These take keys and tokens, no cookies, so another site cannot make a browser use them (CSRF).
APIS = (
    transfers.bp,
    programs.bp,
    senders.bp,
    wetransfer.bp,
    webhooks.bp,
    files.bp,
    assets.bp,
    assets.form_bp,
)


class SlugConverter(BaseConverter):
    """A link's slug; text of any other form never reaches the database."""

    regex = "[A-Za-z0-9_-]{20,64}"


def create_app(environ: Mapping[str, str] = os.environ) -> Flask:
    """Return the application, bound to the settings in `environ`; raises config.ConfigError.

    Opens no connection: the first request, job or command does.
    """
    settings = config.load(environ)
    config.bind(settings)
    app = Flask(__name__, template_folder="../templates", static_folder=None)
    app.config.update(_flask_config(settings))
    app.url_map.converters["slug"] = SlugConverter
    app.url_map.strict_slashes = False

    logs.init_app(app, settings.log_level)
    timeouts.init_app(app)
    db.init_app(app)
    with app.app_context():
        connections.watch(db.engine)
    app.teardown_appcontext(end_session)
    migrating.init_app(app)
    csrf.init_app(app)
    storage.bind(settings)
    queue.bind(settings)
    mailer.bind(settings)
    events.bind(settings)

    for blueprint in PAGES + APIS:
        app.register_blueprint(blueprint)
    for blueprint in APIS:
        csrf.exempt(blueprint)

    problems.init_app(app)
    request_guards.init_app(app)
    view.init_app(app)
    cli.init_app(app)
    browsers.init_app(app)
    if settings.trusted_proxies:
        # Every proxy appends to X-Forwarded-For; X-Forwarded-Proto is set only by the nearest one.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.trusted_proxies, x_proto=1, x_host=0)  # type: ignore[method-assign]
    return app


def get_ready() -> None:
    """Build everything lazy now, without opening a connection.

    For processes that serve or fork: the first request must not wait for it, and forked job
    processes would each have to build it again, which is most of the cost of a small job. What is
    loaded by then is never freed, and never looked through for garbage.
    """
    configure_mappers()
    storage.get_ready()
    events.get_ready()
    static_files.get_ready()
    # A forked job would copy each memory page of it, only to find that nothing is garbage.
    gc.freeze()


def _flask_config(settings: config.Settings) -> dict[str, object]:
    return {
        "SECRET_KEY": settings.secret_key,
        "SECRET_KEY_FALLBACKS": list(settings.secret_key_fallbacks),
        "SQLALCHEMY_DATABASE_URI": settings.database_url,
        "SQLALCHEMY_ENGINE_OPTIONS": {
            # Database errors must not put titles, links or hashes into the logs.
            "hide_parameters": True,
            "pool_size": settings.database_pool_size,
            "max_overflow": 0,
            "pool_timeout": 8,
            # The one that was used last has PostgreSQL's caches warm, and needs no ping
            # (connections.py); taken in turn, each would be idle for long on a quiet day.
            "pool_use_lifo": True,
            "connect_args": {
                # If a host vanishes in the middle of a transaction, its rows stay locked until
                # PostgreSQL ends the session: no longer than its lease would last.
                # Times come in UTC whatever zone the database is set to: in some zones, the last
                # moments that Python knows would be in the year 10000, and could not be read.
                "options": "-c statement_timeout=15s -c idle_in_transaction_session_timeout=20s"
                " -c timezone=UTC",
                # A migration waits without a timeout: TCP keepalives let it notice a dead server
                # within a minute instead of two hours.
                "keepalives_idle": 30,
                "keepalives_interval": 10,
                "keepalives_count": 3,
            },
        },
        "MAX_CONTENT_LENGTH": 2 * config.MIB,
        "SESSION_COOKIE_NAME": "__Host-beeline" if settings.is_https else "beeline",
        "SESSION_COOKIE_SECURE": settings.is_https,
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_SAMESITE": "Lax",
        # A form's CSRF token lives as long as its session: a page left open overnight still works.
        "WTF_CSRF_TIME_LIMIT": None,
    }
