"""Arranges a transfer's files in the folders in which they were sent."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from app.models import File, UploadState

# Templates recurse, so deeper folders are flattened into the one at this depth, by relative path.
DEEPEST = 16


@dataclass
class Folder:
    """A folder with its direct contents; its counts and size include everything below it."""

    name: str
    path: str
    number: int
    files: list[File] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)
    file_count: int = 0
    total_size: int = 0
    arrived_count: int = 0


def tree(files: Sequence[File]) -> Folder:
    """Return the root folder of these files: files in the sender's order, folders by name."""
    root = Folder("", "", 0)
    known = {"": root}
    for file in files:
        _at(file.folder, known).files.append(file)
        for path in _up_from(file.folder):
            known[path].file_count += 1
            known[path].total_size += file.size
            known[path].arrived_count += file.upload.state is UploadState.COMPLETE
    # From the bottom up: what lies in a folder is made after it.
    for folder in reversed(known.values()):
        folder.folders = sorted(map(_merged, folder.folders), key=lambda one: one.name.casefold())
    return root


def _merged(folder: Folder) -> Folder:
    """The folder; where it holds nothing but another one, that one under both names."""
    while not folder.files and len(folder.folders) == 1:
        (inner,) = folder.folders
        folder = replace(inner, name=f"{folder.name}/{inner.name}")
    return folder


def _up_from(path: str) -> list[str]:
    """Return this folder's path and those of its ancestors, the root's last."""
    names = path.split("/") if path else []
    above = ["/".join(names[:depth]) for depth in range(min(len(names), DEEPEST), -1, -1)]
    return above if len(names) <= DEEPEST else [path, *above]


def _at(path: str, known: dict[str, Folder]) -> Folder:
    """Return the folder at this path, creating it and its ancestors where missing."""
    parent = known[""]
    for one in reversed(_up_from(path)[:-1]):
        if one not in known:
            name = one.removeprefix(f"{parent.path}/") if parent.path else one
            known[one] = Folder(name, one, len(known))
            parent.folders.append(known[one])
        parent = known[one]
    return parent
