"""What the files of a bundle must be, byte for byte: by its statement; of encrypted volumes by their packing list."""

from __future__ import annotations

from dataclasses import dataclass, field

from bundler import layout, packing
from bundler.packing import PackingList
from manifests.statement import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Of each volume: its name, the bytes before what is hashed, the size and the SHA-256 (hex) of the rest.

    `told` is what says so, and travels with parity volumes and parts in the member `member`."""

    id: str
    stem: str
    told: bytes = field(repr=False)
    names: tuple[str, ...]
    heads: tuple[bytes, ...] = field(repr=False)
    sizes: tuple[int, ...]
    hashes: tuple[str, ...]
    packing: PackingList | None = None  # of encrypted volumes

    @property
    def member(self) -> str:
        return packing.MEMBER if self.packing else layout.ENVELOPE

    def whole(self, index: int) -> int:
        """Bytes of the file."""
        return len(self.heads[index]) + self.sizes[index]


def of_statement(statement: Statement, envelope: bytes) -> Expected:
    names = layout.volume_names(statement)
    return Expected(
        id=statement.id,
        stem=layout.stem(statement),
        told=envelope,
        names=tuple(names),
        heads=tuple(layout.head(statement, envelope, index) for index in range(len(names))),
        sizes=tuple(volume.size for volume in statement.volumes),
        hashes=tuple(volume.sha256.hex for volume in statement.volumes),
    )


def of_packing(found: PackingList) -> Expected:
    return Expected(
        id=found.id,
        stem=found.stem,
        told=found.encode(),
        names=found.names,
        heads=(b"",) * len(found.files),
        sizes=tuple(size for size, _ in found.files),
        hashes=tuple(sha256 for _, sha256 in found.files),
        packing=found,
    )
