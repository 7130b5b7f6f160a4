"""A public data set as one gets it: its files, where they come from, their licence, and how they are trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PublicFile:
    """A file, or a folder of files, of a public data set.

    >>> PublicFile("labels_tr.csv", "https://example.org/labels_tr.csv").sha256 is None
    True

    Attributes:
        name: what it is called in the data set's folder here; for an archive, what comes out of it.
        source: address of the file or of the page that has it.
        sha256: its digest, where one is known.
        size: in words, such as ``"25 MB"``, where it is known.
        optional: whether the set can be read without it.
    """

    name: str
    source: str
    sha256: str | None = None
    size: str | None = None
    optional: bool = False

    def __str__(self) -> str:
        facts = [self.size, "optional" if self.optional else None]
        told = ", ".join(fact for fact in facts if fact)
        digest = f"sha256 {self.sha256}" if self.sha256 else "no published checksum is known"
        return f"{self.name}{f' ({told})' if told else ''}\n    from {self.source}\n    {digest}"


@dataclass(frozen=True)
class PublicSet:
    """A public data set: what to download, into which layout, and the recipe that trains on it. Nothing is fetched.

    >>> files = (PublicFile("a.csv", "https://example.org/a.csv"),)
    >>> toy = PublicSet("toy", "A toy (Doe 2020)", "CC0", files)
    >>> print(*list(toy.instructions())[-3:], sep=chr(10))
    Then
      equifuse datasets inspect toy
      equifuse train --config recipes/toy.yaml --data toy

    Attributes:
        name: by which it is registered; also that of its recipe, and of its folder in the commands.
        title: name, and who published it.
        licence: as its makers state it, or that they state none.
        files: what is needed.
        layout: how the files lie in the folder, in a sentence.
        data: what ``--data`` gets: the folder, or a file in it; default the folder.
        options: words of the command that the layout needs, such as ``"--format vqa"``.
        notes: what to know before quoting a figure.
    """

    name: str
    title: str
    licence: str
    files: tuple[PublicFile, ...]
    layout: str = ""
    data: str = ""
    options: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def recipe(self) -> str:
        """Path of its recipe in the repository."""
        return f"recipes/{self.name}.yaml"

    def instructions(self) -> Iterator[str]:
        """Lines that say what to download from where, and which commands follow."""
        yield self.title
        yield f"Licence: {self.licence}"
        yield "Files (downloaded by you, nothing is fetched here; addresses are those that were published)"
        for each in self.files:
            yield f"  {each}"
        if self.layout:
            yield f"Layout: {self.layout}"
        for note in self.notes:
            yield f"Note: {note}"
        data = self.data or self.name
        options = f" {self.options}" if self.options else ""
        yield "Then"
        yield f"  equifuse datasets inspect {data}{options}"
        yield f"  equifuse train --config {self.recipe} --data {data}"
