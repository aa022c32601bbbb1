"""A transfer's files as the tree of folders in which they were sent."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from app.models import File, UploadState

# Deeper folders are listed in the one at this depth, by the rest of their path: templates recurse.
DEEPEST = 16


@dataclass
class Folder:
    """A folder with what lies directly in it; its sums include everything below it."""

    name: str
    path: str
    number: int
    files: list[File] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)
    file_count: int = 0
    total_size: int = 0
    arrived_count: int = 0


def tree(files: Sequence[File]) -> Folder:
    """The root folder of these files: files in their sender's order, folders by name."""
    root = Folder("", "", 0)
    known = {"": root}
    for file in files:
        _at(file.folder, known).files.append(file)
        for path in _up_from(file.folder):
            known[path].file_count += 1
            known[path].total_size += file.size
            known[path].arrived_count += file.upload.state is UploadState.COMPLETE
    for folder in known.values():
        folder.folders = sorted(map(_merged, folder.folders), key=lambda one: one.name.casefold())
    return root


def _merged(folder: Folder) -> Folder:
    """The folder; where it holds nothing but another one, that one under both names."""
    while not folder.files and len(folder.folders) == 1:
        (inner,) = folder.folders
        folder = replace(inner, name=f"{folder.name}/{inner.name}")
    return folder


def _up_from(path: str) -> list[str]:
    """This folder's path and those of the folders that it lies in, the root's last."""
    names = path.split("/") if path else []
    above = ["/".join(names[:depth]) for depth in range(min(len(names), DEEPEST), -1, -1)]
    return above if len(names) <= DEEPEST else [path, *above]


def _at(path: str, known: dict[str, Folder]) -> Folder:
    """The folder at this path; it and those that it lies in are made where they are missing."""
    parent = known[""]
    for one in reversed(_up_from(path)[:-1]):
        if one not in known:
            name = one.removeprefix(f"{parent.path}/") if parent.path else one
            known[one] = Folder(name, one, len(known))
            parent.folders.append(known[one])
        parent = known[one]
    return parent
