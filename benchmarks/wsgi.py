"""The application with another part size than it would plan: PART_SIZE, in bytes."""

import os

from app import create_app
from app.services import planning

planning.part_size_for = lambda size: int(os.environ["PART_SIZE"])
app = create_app()
