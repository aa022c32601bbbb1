"""The application with a fixed part size instead of the planned one: PART_SIZE, in bytes."""

import os

from app import create_app
from app.services import planning

planning.part_size_for = lambda size: int(os.environ["PART_SIZE"])
app = create_app()
