"""Export models as a bundle. Two passes over the blobs: one hashes and makes the statement, one writes and checks
again.

    load, content gate -> in a delta: leave out what the other side has -> pack (sizes are known) -> free space ->
    hash each blob once -> statement -> sign ->
    data volumes, sheet, verifier, index volume last -> parity volumes, if asked -> remember the channel's number

* Every file is written as `*.tmp`, synced and renamed. The index volume comes last: where it is, all is.
* After signing, the envelope is kept in <home>/state/exports. The same command after an interruption finds it there,
  checks the volumes that are finished and writes the rest: same bundle, same bytes. If meanwhile another bundle got its
  number, a new one is made.
* One export at a time goes into a folder, and into a channel.
* A blob whose bytes are not what its name says stops the export, in either pass.
* Payload bytes depend on the models, the volume size, the leaf size and the share of parity alone.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bundler import cargo, conceal, delta, expected, layout, locks, packing, parity, verify
from bundler.cargo import Load
from bundler.channels import Channels, Seen
from bundler.delta import OtherSide
from bundler.draft import Options, draft, overhead_of
from bundler.errors import BadRequest, ExportRefused, MediumUnavailable, medium_errors
from bundler.journal import Journal
from bundler.measure import measure
from bundler.medium import VOLUME, volume_size
from bundler.packing import PackingList
from bundler.seal import Sealing
from bundler.volumes import check_volume
from bundler.writing import write
from manifests import gate
from manifests.digest import Digest
from manifests.errors import StatementError
from manifests.name import ModelName
from manifests.statement import CHANNEL, LABEL, PAYLOAD_TYPE, Statement
from manifests.store import Store
from signing import envelope as dsse
from signing.keys import Signer

_DEVICE = re.compile(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])\.")  # Windows looks at a name up to its first dot


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    statement: Statement
    folder: Path
    resumed: bool
    volumes: tuple[str, ...]  # names of the files
    parity: tuple[str, ...]  # names of the parity volumes
    bytes: int  # of all volumes, parity included

    def as_dict(self) -> dict[str, Any]:
        return {
            "bundle": verify.describe(self.statement),
            "folder": str(self.folder),
            "resumed": self.resumed,
            "volumes": list(self.volumes),
            "parity": list(self.parity),
            "volume_bytes": self.bytes,
        }


def export(
    store: Store,
    names: Sequence[ModelName],
    out: Path,
    signers: Sequence[Signer],
    options: Options | None = None,
    *,
    seen: Channels | None = None,
    rules: gate.Rules | None = None,
    since: OtherSide | None = None,
    now: datetime | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """`progress` gets bytes done and bytes in all (of all passes); `rules` are the content gate's; `since`: leave out
    what the other side has. Raises ExportRefused, BadRequest, MediumUnavailable, NoSpace and the store's errors, and
    BundlerBusy where another export goes into the same folder or channel."""
    if not signers:
        raise BadRequest("a bundle needs a signer", hint="name a key: --sign NAME (sealift key generate NAME)")
    seen = seen or Channels.exported()
    load = cargo.load(store, names, leaf_size=(options or Options()).leaf_size, rules=rules)
    options = _settled(options or Options(), names[0])
    if since is not None:
        options = replace(options, since=since.since)
        delta.leave_out(load, since)
    with seen.alone(options.channel or ""), locks.alone(out):
        return _export(load, out, signers, options, seen, now or _now(), progress)


def _export(
    load: Load, out: Path, signers: Sequence[Signer], options: Options, seen: Channels, now: datetime,
    progress: Callable[[int, int], None] | None,
) -> ExportReport:  # fmt: skip
    journal = Journal(load, out, signers, options)
    resumed = journal.take(load)
    if resumed and _taken(resumed[0], seen):
        resumed = None
    if resumed is None:
        planned = _planned(load, options, seen, now)
        _check_encrypted(planned, options)
        _check_folder(out, None)
        _check_space(out, planned, options)
        meter = _Meter(progress, _passes(2, options) * sum(volume.size for volume in planned.volumes))
        statement = measure(load, planned, meter)
        _check_readable(statement)
        _check_number(statement, seen)
        envelope = dsse.encode(dsse.sign(PAYLOAD_TYPE, statement.encode(), signers))
        _check_sizes(statement, envelope, options)
        journal.keep(load, statement, envelope)
    else:
        statement, envelope = resumed
        _check_folder(out, layout.stem(statement))
        meter = _Meter(progress, _passes(1, options) * sum(volume.size for volume in statement.volumes))
    sums: dict[str, str] | None = {} if options.parity else None
    write(load, statement, envelope, out, meter, options.sealing, sums)
    made = _write_parity(statement, envelope, out, options, meter, sums or {})
    payload = dsse.decode(envelope).payload
    seen.remember(statement, Digest.of(payload), statement.created)
    journal.retire(statement)
    written = [conceal.file_name(statement, index, options.sealing) for index in range(len(statement.volumes))]
    total = sum((out / name).stat().st_size for name in [*written, *made])
    return ExportReport(
        statement=statement, folder=out, resumed=resumed is not None, volumes=tuple(written), parity=made, bytes=total
    )


def _planned(load: Load, options: Options, seen: Channels, now: datetime) -> Statement:
    """A parity volume is larger than the data volumes by its table: these leave room for it, so that all are within the
    size that was asked for. More room, more volumes, a larger table: it ends, at the latest with 255 volumes.
    Encryption makes volumes larger too."""
    sealed = reserve = options.sealing.overhead(options.volume_size or 0) if options.sealing else 0
    while True:
        size = None if options.volume_size is None else options.volume_size - reserve
        planned = draft(load, replace(options, volume_size=size), seen, now)
        needed = sealed + _parity_extra(planned, options)
        if size is None or needed <= reserve:
            return planned
        reserve = needed


def _parity_of(statement: Statement, options: Options) -> parity.Header | None:
    """The numbers of the parity volumes; of encrypted ones with the largest files that they can be."""
    if options.parity is None:
        return None
    sizes = [volume.size for volume in statement.volumes]
    if options.sealing:
        plain = [size + overhead_of(statement) for size in sizes]
        sizes = [size + options.sealing.overhead(size) for size in plain]
    return parity.plan(sizes, parity.wanted(options.parity, len(sizes)))


def _parity_extra(statement: Statement, options: Options) -> int:
    """Bytes of a parity volume beyond those of the largest volume, at most."""
    header, sealing = _parity_of(statement, options), options.sealing
    if header is None:
        return 0
    identity = sealing.locked[1] if sealing and sealing.locked else b""
    return parity.extra_size(header, packing.most_bytes(header.data, identity) if sealing else 0)


def _passes(least: int, options: Options) -> int:
    """Over all bytes: parity reads back what was written."""
    return least + (options.parity is not None)


def _write_parity(
    statement: Statement, envelope: bytes, out: Path, options: Options, meter: Callable[[int], None],
    sums: Mapping[str, str],
) -> tuple[str, ...]:  # fmt: skip
    """`sums`: of encrypted volumes, as they were written."""
    header, sealing = _parity_of(statement, options), options.sealing
    if header is None:
        return ()
    wanted = expected.of_statement(statement, envelope)
    if sealing and sums:
        wanted = expected.of_packing(_packing_list(statement, envelope, out, sealing, sums))
    paths = parity.write(out, wanted, header.parity, progress=meter)
    return tuple(path.name for path in paths)


def _packing_list(
    statement: Statement, envelope: bytes, out: Path, sealing: Sealing, sums: Mapping[str, str]
) -> PackingList:
    files = []
    for index in range(len(statement.volumes)):
        path = out / conceal.file_name(statement, index, sealing)
        if path.name not in sums:  # the index volume in clear
            check_volume(path, statement, envelope, index)
        with medium_errors(path), path.open("rb") as stream:
            sha256 = sums.get(path.name) or Digest.of_stream(stream).hex
        files.append((path.stat().st_size, sha256))
    stem = conceal.stem(statement) if sealing.hidden else layout.stem(statement)
    identity = sealing.locked[1] if sealing.locked else b""
    return PackingList(stem=stem, clear=int(not sealing.hidden), files=tuple(files), identity=identity)


class _Meter:
    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, count: int) -> None:
        self._done += count
        if self._progress:
            self._progress(min(self._done, self._total), self._total)


def _now() -> datetime:
    """SOURCE_DATE_EPOCH, where it is set (reproducible-builds.org), else the clock."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not epoch:
        return datetime.now(timezone.utc)
    if not re.fullmatch(r"[0-9]{1,11}", epoch):
        raise BadRequest(f"SOURCE_DATE_EPOCH: expected seconds since 1970, found {epoch[:40]!r}")
    return datetime.fromtimestamp(int(epoch), timezone.utc)


def _settled(options: Options, first: ModelName) -> Options:
    """With a label and a channel: by default both are the name of the model that was named first."""
    plain = first.model if first.tag.lower() == "latest" else f"{first.model}-{first.tag}"
    plain = re.sub(r"[^a-z0-9._-]", "-", plain.lower()).lstrip("._-")[:39] or "models"
    label, channel = options.label or _DEVICE.sub(r"\1-", plain), options.channel or plain
    if not LABEL.fullmatch(label):
        raise BadRequest(f"label {label[:60]!r}: expected at most 39 of a-z 0-9 . _ -")
    if _DEVICE.match(label):
        raise BadRequest(
            f"label {label!r}: Windows takes files of such names for a device", hint="give another with --label"
        )
    if not CHANNEL.fullmatch(channel) or len(channel) > 128:
        raise BadRequest(f"channel {channel[:140]!r}: expected names of a-z 0-9 . _ - separated by /")
    return replace(options, label=label, channel=channel)


def _check_folder(out: Path, stem: str | None) -> None:
    with medium_errors(out):
        names = [name.removesuffix(conceal.SEALED) for name in os.listdir(out)]
    found = {match["stem"] for name in names if (match := VOLUME.fullmatch(name))}
    others = sorted(found - {stem, f"{conceal.LABEL}-{stem[-8:]}" if stem else None})
    if others:
        raise ExportRefused(f"{out} holds volumes of another bundle: {others[0]}", hint="export into an empty folder")


def _check_encrypted(planned: Statement, options: Options) -> None:
    """Who asks for encryption does not get a bundle that is all in clear."""
    if options.sealing and not options.sealing.hidden and len(planned.volumes) == 1:
        raise BadRequest(
            "all of it fits into the index volume, which --index readable leaves in clear: nothing would be encrypted",
            hint="leave --index away: then the index volume is encrypted too",
        )


def _check_readable(statement: Statement) -> None:
    """Never sign what our own reader would refuse, such as a layer with an impossible media type."""
    try:
        layout.check(Statement.decode(statement.encode()))
    except StatementError as error:
        raise ExportRefused(f"these models do not make a bundle: {error}") from None


def _taken(statement: Statement, seen: Channels) -> Seen | None:
    """The newest bundle of the channel, where this one's number is older or another's. The same bundle may be made
    again."""
    last = seen.last(statement.channel)
    known = {item.sequence: item.id for item in last.ids} if last else {}
    free = last is None or statement.sequence > last.sequence or known.get(statement.sequence) == statement.id
    return None if free else last


def _check_number(statement: Statement, seen: Channels) -> None:
    """It would be refused over there."""
    if last := _taken(statement, seen):
        raise ExportRefused(
            f"number {statement.sequence} in channel {statement.channel}: number {last.sequence}, bundle {last.id}, "
            "was exported already, and who has it refuses this one",
            hint=f"leave --seq away: the next number is {last.sequence + 1}",
        )


def _check_sizes(statement: Statement, envelope: bytes, options: Options) -> None:
    limit = options.volume_size
    largest = max(volume_size(statement, envelope, index) for index in range(len(statement.volumes)))
    largest += options.sealing.overhead(largest) if options.sealing else 0
    largest += _parity_extra(statement, options)
    if limit is not None and largest > limit:
        raise BadRequest(
            f"with so many signatures a volume would have {largest:,} bytes",
            hint="fewer signers, or a larger --volume-size",
        )


def _check_space(out: Path, planned: Statement, options: Options) -> None:
    header = _parity_of(planned, options)
    needed = sum(volume.size for volume in planned.volumes) + len(planned.volumes) * overhead_of(planned)
    if header:
        needed += header.parity * (header.length + _parity_extra(planned, options) + overhead_of(planned))
    if options.sealing:
        needed += sum(options.sealing.overhead(volume.size + overhead_of(planned)) for volume in planned.volumes)
    with medium_errors(out):
        free = shutil.disk_usage(out).free
    if free < needed:
        raise MediumUnavailable(
            f"{out}: {needed:,} bytes are needed, only {free:,} are free", hint="use a larger medium, or an empty one"
        )
