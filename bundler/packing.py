"""The packing list of encrypted volumes: how many they are, their sizes and hashes as they lie on the medium.

    {"clear":0,"files":[{"sha256":<hex>,"size":<bytes>},...],"identity"?:<base64>,"stem":"sealed-7f3c91ab"}

Whoever has the volumes can make it, with no key, and it says nothing that they do not: so it may travel in clear, with
parity volumes, parts and datagrams. It names the files of one encryption; the same bundle encrypted again has another
one. Its id is a hash of it, and is what stands for the bundle where nobody can read inside.
`identity` is the small file that a passphrase opens, where there is one: whoever loses that loses all of it.
It is not signed. What comes of it is decrypted and judged by the statement, as every volume is.
Refused: what is not its one canonical form, more bytes than the limit, files that no bundle can have.
Normative text: docs/formats/parity.md, section 7.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundler import agefile, conceal, layout
from bundler.conceal import SEALED
from bundler.errors import (
    BundleRefused,
    MediumUnavailable,
    PackingRefused,
    VolumeDamaged,
    VolumeMissing,
    VolumeMixed,
)
from bundler.medium import VOLUME, VolumeReader, file_names, plain_size
from manifests import canonical
from manifests.errors import ManifestsError
from manifests.fields import Fields
from manifests.statement import MAX_VOLUMES

MEMBER = "packing.json"
MAX_PACKING = 2 << 20  # bytes: 9,999 files, and the identity
MAX_SIZE = 1 << 46  # bytes of one file
MAX_IDENTITY = 64 << 10  # bytes
READ = 4 << 20  # bytes
_STEM = re.compile(r"[a-z0-9][a-z0-9._-]{0,38}-[0-9a-f]{8}")
_HEX = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingList:
    """`files`: size and SHA-256 (hex) of each volume, in order; the first `clear` of them, none or the index volume,
    are not encrypted. `decode(encode()) == self`."""

    stem: str
    clear: int
    files: tuple[tuple[int, str], ...]
    identity: bytes = field(default=b"", repr=False)

    @property
    def id(self) -> str:
        return hashlib.sha256(self.encode()).hexdigest()[:32]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(volume_name(self.stem, i, len(self.files), i < self.clear) for i in range(len(self.files)))

    @property
    def size(self) -> int:
        """Bytes of all volumes."""
        return sum(size for size, _ in self.files)

    @property
    def locked_name(self) -> str:
        return self.stem + conceal.LOCKED

    def check(self, path: Path, index: int, progress: Progress | None = None) -> None:
        """The file of volume `index`, by its bytes alone. Raises VolumeDamaged, MediumUnavailable."""
        if _measure(path, progress) != self.files[index]:
            raise VolumeDamaged(path.name, 0, "it is not the file that its packing list says")

    def encode(self) -> bytes:
        files = [{"sha256": sha256, "size": size} for size, sha256 in self.files]
        document: dict[str, Any] = {"clear": self.clear, "files": files, "stem": self.stem}
        if self.identity:
            document["identity"] = base64.b64encode(self.identity).decode()
        return canonical.encode(document)

    @classmethod
    def read(cls, path: Path) -> PackingList:
        """From a file. Raises PackingRefused, MediumUnavailable."""
        with VolumeReader(path, sealed=False) as file:
            return cls.decode(file.read(min(file.size, MAX_PACKING + 1), MEMBER))

    @classmethod
    def decode(cls, raw: bytes) -> PackingList:
        """Raises PackingRefused."""
        try:
            fields = Fields.of(canonical.decode(raw, limit=MAX_PACKING))
            found = cls(
                stem=fields.text("stem", pattern=_STEM),
                clear=fields.integer("clear", maximum=1),
                files=fields.array("files", _file_in, maximum=MAX_VOLUMES),
                identity=base64.b64decode(fields.optional("identity", fields.text) or "", validate=True),
            )
            fields.done()
        except (ManifestsError, binascii.Error) as error:
            raise PackingRefused(f"the packing list: {error}") from None
        if not found.files or len(found.identity) > MAX_IDENTITY or found.encode() != raw:
            raise PackingRefused("the packing list: no files, too much of an identity, or not in its one form")
        return found


def _file_in(value: Any, path: str) -> tuple[int, str]:
    fields = Fields.of(value, path)
    found = fields.integer("size", minimum=1, maximum=MAX_SIZE), fields.text("sha256", pattern=_HEX)
    fields.done()
    return found


def volume_name(stem: str, index: int, count: int, clear: bool) -> str:
    return f"{stem}.v{index:0{max(3, len(str(count)))}d}.tar{'' if clear else SEALED}"


def most_bytes(n_volumes: int, identity: bytes = b"") -> int:
    """At most so many bytes has the packing list of so many volumes."""
    most = PackingList(
        stem="s" * 39 + "-7f3c91ab", clear=1, files=((MAX_SIZE, "0" * 64),) * n_volumes, identity=identity
    )
    return len(most.encode())


def sealed_names(folder: Path, stem: str) -> list[str]:
    """The volumes of one encryption in a folder, in order. Raises VolumeMissing, VolumeMixed."""
    found = {
        int(match["number"]): name
        for name in file_names(folder)
        if (match := VOLUME.fullmatch(name.removesuffix(SEALED))) and match["stem"] == stem
    }
    count = max([*found, *_on_the_sheet(folder, stem)], default=0) + 1
    names = [volume_name(stem, i, count, i == 0 and not found.get(0, SEALED).endswith(SEALED)) for i in range(count)]
    for index, name in enumerate(names):
        if index not in found:
            raise VolumeMissing(
                f"{folder}: {name} is not here",
                hint="encrypted volumes without parity volumes are known together alone: give the folder of the export",
            )
        if found[index] != name:
            raise VolumeMixed(f"{found[index]} lies among encrypted volumes", hint="take the volumes as they were made")
    return names


def _on_the_sheet(folder: Path, stem: str) -> list[int]:
    """Numbers of volumes on the sheet beside them, which knows how many there are; nobody vouches for it."""
    try:
        with VolumeReader(folder / (stem + layout.SHEET_SUFFIX), sealed=False) as sheet:
            text = sheet.read(min(sheet.size, MAX_PACKING), "the sheet").decode("utf-8", "replace")
    except (BundleRefused, MediumUnavailable):
        return []
    return [int(number) for number in re.findall(re.escape(stem) + r"\.v([0-9]{3,4})\.tar", text)]


def sealed_stems(folder: Path) -> list[str]:
    """Of all that is encrypted in a folder."""
    names = [name for name in file_names(folder) if name.endswith(SEALED)]
    return sorted({match["stem"] for name in names if (match := VOLUME.fullmatch(name.removesuffix(SEALED)))})


def of_folder(folder: Path, stem: str, progress: Progress | None = None) -> PackingList:
    """Made from the files themselves: reads all of them. Raises VolumeMissing, VolumeMixed, MediumUnavailable, and
    VolumeDamaged for what is no age file."""
    names = sealed_names(folder, stem)
    for name in names:
        plain_size(folder / name)
    files = tuple(_measure(folder / name, progress) for name in names)
    clear = int(not names[0].endswith(SEALED))
    return PackingList(stem=stem, clear=clear, files=files, identity=read_identity(folder, stem))


def _measure(path: Path, progress: Progress | None) -> tuple[int, str]:
    """Size and SHA-256 of a file."""
    hasher = hashlib.sha256()
    with VolumeReader(path, sealed=False) as file:
        while left := file.size - file.position:
            data = file.read(min(READ, left), "what it had before")
            hasher.update(data)
            if progress:
                progress(len(data))
        return file.size, hasher.hexdigest()


def read_identity(folder: Path, stem: str) -> bytes:
    """The file that a passphrase opens, beside the volumes; b"" where there is none."""
    path = folder / (stem + conceal.LOCKED)
    if not path.exists():
        return b""
    with VolumeReader(path, sealed=False) as file:
        data = file.read(min(file.size, MAX_IDENTITY + 1), "the identity")
    if len(data) > MAX_IDENTITY or not data.startswith(agefile.MAGIC):  # it is given away: nothing else may be
        raise PackingRefused(f"{path.name}: no identity under a passphrase", hint="take it away")
    return data
