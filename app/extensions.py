"""The unbound singletons. create_app() binds them; everything else imports them from here."""

from flask_migrate import Migrate
from flask_wtf.csrf import CSRFProtect

from app.db import db
from app.gateways.queue import JobQueue
from app.gateways.storage import Storage

__all__ = ["csrf", "db", "migrate", "queue", "storage"]

migrate = Migrate()
csrf = CSRFProtect()
storage = Storage()
queue = JobQueue()
