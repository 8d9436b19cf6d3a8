"""The errors of this room.

    BundlerError
    ├── BundleRefused         what lies on the medium is not a sound bundle; the message names volume and place
    │   ├── VolumeMissing     a volume of the bundle is not there
    │   ├── VolumeMixed       volumes twice, renamed, or of another bundle
    │   ├── VolumeDamaged     bytes of a volume are not what the statement says
    │   ├── PartRefused       a part of a volume is malformed, or belongs to something else
    │   ├── NoParity          there is no sound parity volume
    │   ├── PackingRefused    no sound packing list of encrypted volumes
    │   ├── BaseWanting       a delta, and the store lacks what it builds upon; `.wanting` lists the digests
    │   └── ApprovalRefused   a file of added signatures is malformed, or belongs to another statement
    ├── PolicyRefused         a sound bundle that this site does not take: older, expired, too large, ...
    ├── RepairImpossible      more is lost than can be restored; `.missing` lists what, `.slip` asks for it
    ├── InventoryRefused      a file that is no sound inventory, or that nobody signed
    ├── CannotDecrypt     4   volumes are encrypted, and no identity was given, or none that opens them, or no pyrage
    ├── SlipRefused           what was typed or scanned is not a resend slip, or not one of this bundle
    ├── GateRefused           the content gate found something; `.findings` says what and where
    ├── PaperRefused          a text that was typed from paper is not whole; the message names the line
    ├── CustodyRefused        the custody log, a head or a proof of it is not sound; the message names the entry
    ├── ReceiptRefused        bytes that are no receipt, or not in their one spelling
    ├── ExportRefused         these models cannot be exported
    ├── BadRequest        2   options that cannot work together, such as a volume size that is too small
    ├── BundlerBusy       4   another one of ours imports, writes or sends the same thing
    ├── MediumUnavailable 4   the medium cannot be read or written
    │   └── MediumFull    4   there is no space on it
    └── GateFailed        4   the content gate could not run, so nothing is imported

Every class has an exit code and an HTTP status; an instance may carry a hint: what to do next.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bundler.shards import Damage
    from bundler.slip import Slip
    from manifests.digest import Digest
    from manifests.gate import Finding


class BundlerError(Exception):
    """Base of this room. `hint` is the next step for the user, or None."""

    exit_code = 1
    http_status = 400

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class BundleRefused(BundlerError):
    pass


class VolumeMissing(BundleRefused):
    pass


class VolumeMixed(BundleRefused):
    pass


class VolumeDamaged(BundleRefused):
    """`volume` is the file's name, `offset` the byte in it from which on it is wrong."""

    def __init__(self, volume: str, offset: int, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{volume}, byte {offset:,}: {problem}", hint=hint)
        self.volume = volume
        self.offset = offset


class ApprovalRefused(BundleRefused):
    pass


class BaseWanting(BundleRefused):
    """`wanting`: blobs that the store lacks, or has with other bytes."""

    def __init__(self, message: str, wanting: tuple[Digest, ...], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.wanting = wanting

    def as_dict(self) -> dict[str, Any]:
        """What a script gets besides the message."""
        return {"wanting": [str(digest) for digest in self.wanting]}


class PartRefused(BundleRefused):
    pass


class NoParity(BundleRefused):
    pass


class PackingRefused(BundleRefused):
    pass


class PolicyRefused(BundlerError):
    http_status = 403


class RepairImpossible(BundlerError):
    """`stem` is the bundle's, for the slip's first line."""

    def __init__(
        self, message: str, missing: tuple[Damage, ...], slip: Slip, stem: str, *, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.missing, self.slip, self.stem = missing, slip, stem

    def as_dict(self) -> dict[str, Any]:
        """What a script gets besides the message."""
        return {"missing": [item.as_dict() for item in self.missing], "slip": self.slip.text(self.stem)}


class InventoryRefused(BundlerError):
    pass


class CannotDecrypt(BundlerError):
    exit_code = 4


class SlipRefused(BundlerError):
    pass


class GateRefused(BundlerError):
    def __init__(self, message: str, findings: tuple[Finding, ...], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.findings = findings


class PaperRefused(BundlerError):
    pass


class CustodyRefused(BundlerError):
    pass


class ReceiptRefused(BundlerError):
    pass


class ExportRefused(BundlerError):
    pass


class BadRequest(BundlerError):
    exit_code = 2


class BundlerBusy(BundlerError):
    exit_code = 4
    http_status = 409


class MediumUnavailable(BundlerError):
    exit_code = 4
    http_status = 503


class MediumFull(MediumUnavailable):
    pass


class GateFailed(BundlerError):
    exit_code = 4
    http_status = 503


@contextlib.contextmanager
def medium_errors(path: Path) -> Iterator[None]:
    """Turns the system's errors about a medium into this room's."""
    try:
        yield
    except OSError as error:
        where = path if error.filename is None or isinstance(error.filename, int) else error.filename
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            large = "its file system takes no file so large: choose a smaller --volume-size"
            space = "free some space, or use an empty medium, then run it again"
            hint = large if error.errno == errno.EFBIG else space
            raise MediumFull(f"{where}: {error.strerror}", hint=hint) from None
        denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        hint = "may this user read or write there?" if denied else "is the medium in place? Run it again to resume"
        raise MediumUnavailable(f"{where}: {error.strerror}", hint=hint) from None
