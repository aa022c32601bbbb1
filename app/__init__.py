"""Beeline: big files in a straight line, from the sender's browser to S3 to the recipient.

create_app() is the table of contents: read it from top to bottom.
"""

import gc
import os
from collections.abc import Mapping

# What is loaded here stays. Looking for garbage among it, again and again while it grows, would
# take a third of the time that every process of ours needs to start; and left out of later looks,
# it also stays in the pages of memory that children share.
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
    doors,
    logs,
    migrating,
    models,
    patience,
    problems,
    static_files,
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
    board,
    command_line,
    docs,
    home,
    mail_links,
    manage,
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
    board.bp,
    webhook_pages.bp,
    # JSON and text, that anybody may read.
    status.bp,
    downloads.bp,
    cli_download.bp,
)
# These take no cookies, only keys and tokens, so another site cannot make a browser act on them.
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
    """A link's own word; anything else never reaches the database."""

    regex = "[A-Za-z0-9_-]{20,64}"


def create_app(environ: Mapping[str, str] = os.environ) -> Flask:
    """The application, bound to the settings in `environ`; raises config.ConfigError.

    Opens no connection: the first request, job or command does.
    """
    settings = config.load(environ)
    config.bind(settings)
    app = Flask(__name__, template_folder="../templates", static_folder=None)
    app.config.update(_flask_config(settings))
    app.url_map.converters["slug"] = SlugConverter
    app.url_map.strict_slashes = False

    logs.init_app(app, settings.log_level)
    patience.init_app(app)
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
    doors.init_app(app)
    view.init_app(app)
    cli.init_app(app)
    browsers.init_app(app)
    if settings.trusted_proxies:
        # Each adds the address that it was asked from, but how is said once: by the one before us.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.trusted_proxies, x_proto=1, x_host=0)  # type: ignore[method-assign]
    return app


def get_ready() -> None:
    """Make, without a connection, what would else be made when it is first needed.

    For processes that serve: their first request shall not wait for it. And jobs are done in
    children, each of which would have to make it anew, which is most of what a small one costs.
    """
    configure_mappers()
    storage.get_ready()
    events.get_ready()
    static_files.get_ready()


def _flask_config(settings: config.Settings) -> dict[str, object]:
    return {
        "SECRET_KEY": settings.secret_key,
        "SECRET_KEY_FALLBACKS": list(settings.secret_key_fallbacks),
        "SQLALCHEMY_DATABASE_URI": settings.database_url,
        "SQLALCHEMY_ENGINE_OPTIONS": {
            # An error must not tell titles, links or hashes to whoever reads logs.
            "hide_parameters": True,
            "pool_size": settings.database_pool_size,
            "max_overflow": 0,
            "pool_timeout": 8,
            "connect_args": {
                # A host that is gone in the middle of a transaction keeps its rows locked until
                # PostgreSQL gives up on it: not longer than its lease would keep others away.
                "options": "-c statement_timeout=15s -c idle_in_transaction_session_timeout=20s",
                # And a migration, which waits for its answer without a limit, is told of a server
                # that is gone within a minute, not after two hours.
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
        # A form's token lives as long as its session: a page left open overnight still works.
        "WTF_CSRF_TIME_LIMIT": None,
    }
