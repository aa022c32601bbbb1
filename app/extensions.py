"""The unbound singletons. create_app() binds them; everything else imports them from here."""

from app.forms import FormGuard
from app.gateways.events import Events
from app.gateways.mailer import Mailer
from app.gateways.queue import JobQueue
from app.gateways.storage import Storage

__all__ = ["csrf", "events", "mailer", "queue", "storage"]

csrf = FormGuard()
storage = Storage()
queue = JobQueue()
mailer = Mailer()
events = Events()
