"""Sound things to mutate: bundles with all that may lie beside them, deltas, encrypted ones, receipts, lists, trust."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from bundler import approve, carried, delta_since, inventory, layout, parts, seal, verify_sealift
from bundler.draft import Options
from bundler.export import export
from bundler.importer import import_bundle
from bundler.policy import Policy
from bundler.receipts_keep import Keeper
from bundler.slip import Slip, Want
from bundler.verify import authenticate
from manifests.statement import parse_time
from signing.envelope import encode, sign
from signing.hosttrust import HostTrust
from signing.succession import root_fingerprint
from signing.trust import TrustStore
from signing.trustdocument import TRUST_TYPE, encode_document
from tests.peers.bundles import LEAF, Gap, put_model, signer, trusting, volumes
from tests.peers.forgery import flip, statement_of
from tests.peers.signers import fixed_signer

OPTIONS = Options(volume_size=80 << 10, leaf_size=LEAF)
TODAY = date(2026, 11, 1)


class Bench:
    """All of it in `folder`. `sound` has all that may lie beside volumes, `hurt` damage and a part that mends it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        gap = Gap(folder / "made")
        gap.model(rows=160)
        gap.export(options=replace(OPTIONS, parity="1"))
        self.seen, self.sound, self.policy = gap.seen, gap.medium, Policy()
        self.statement = statement_of(self.sound)
        self.trust = trusting(signer()).add(signer("bob").public, ["approver"])
        self.plain = trusting(signer())
        approve.approve(approve.examine(self.sound, self.trust, seen=self.seen), [signer("bob")])
        self.host, root = HostTrust(folder / "host"), fixed_signer("root")
        base = TrustStore.empty().add(root.public, ["root"]).add(signer().public, ["publisher"])
        first, second = (_signed(store, number, root) for number, store in
                         enumerate((base, base.add(signer("bob").public, ["approver"])), 1))  # fmt: skip
        self.host.adopt(first, root_fingerprint(base), "hybrid")
        carried.write(self.sound, layout.stem(self.statement), second)
        self.renewed = carried.renew(self.sound, self.host, "hybrid", keep=False).trust
        self.slip = Slip(id=self.statement.id, wants=(Want(volume=0, ranges=((1, 3), (7, 9))), Want(volume=1)))
        self.keys = {name: folder / f"{name}.pub" for name in ("alice", "bob")}
        for name, path in self.keys.items():
            path.write_bytes(signer(name).public.encode())
        self.hurt = self._hurt()
        self.delta, self.base = self._delta(folder)
        self.delta_statement = statement_of(self.delta)
        self._sealed(gap)
        self._lists(gap)

    def _hurt(self) -> Path:
        """A copy with one damaged leaf, the part that mends it, and no parity."""
        hurt = self.folder / "hurt"
        shutil.copytree(self.sound, hurt, ignore=shutil.ignore_patterns("*.p*.tar"))
        last = volumes(hurt)[-1]
        size = last.stat().st_size
        name = parts.file_name(last.name, "r", 1)
        envelope = verify_sealift.open_bundle(str(self.sound))[1]
        parts.cut(self.sound / last.name, [(0, size)], hurt / name, self.statement.id, envelope)
        flip(last, size - 6000)
        return hurt

    def _delta(self, folder: Path) -> tuple[Path, Gap]:
        """A model of which one tensor changed, since a bundle that has arrived; where it arrived."""
        gap = Gap(folder / "changed")
        gap.model(rows=160)
        gap.export(options=OPTIONS)
        gap.bring_in()
        weights = bytearray((gap.root / "weights.gguf").read_bytes())
        weights[-4000:] = bytes(4000)
        name = put_model(gap.near, "mine", bytes(weights))
        since = delta_since.other_side(str(gap.medium), trusting(signer()), [signer()])
        out = gap.root / "delta"
        export(gap.near, [name], out, [signer()], OPTIONS, seen=gap.exported, since=since)
        return out, gap

    def _sealed(self, gap: Gap) -> None:
        """An encrypted bundle with parity, and what opens it."""
        identity, self.sealed = self.folder / "identity", self.folder / "sealed"
        sealing = seal.Sealing(recipients=seal.recipients([seal.generate(identity)]))
        gap.export(options=replace(OPTIONS, sealing=sealing, parity="1"), out=self.sealed)
        self.opening = seal.load_keys(identity)

    def _lists(self, gap: Gap) -> None:
        """What is carried back: receipts of both forms, an inventory; and a trust file."""
        rita = signer("rita")
        self.receiving = TrustStore.empty().add(rita.public, ["receiver"])
        self.back = self.folder / "back"
        keeper, now = Keeper(signer=rita, folder=self.back), parse_time("2026-11-01T00:00:00Z")
        keeper.attest(
            lambda: import_bundle(self.sound, gap.far, self.plain, seen=self.seen),
            self.sound, gap.far, lambda: authenticate(self.sound, self.plain, self.policy, now),
        )  # fmt: skip
        taken = inventory.take(gap.far, self.seen, now)
        envelope = encode(sign(inventory.PAYLOAD_TYPE, taken.inventory.encode(), [rita]))
        self.listed = self.folder / "enclave.inventory"
        self.listed.write_bytes(envelope)
        self.trust_file = self.trust.encode()


def _signed(store: TrustStore, version: int, by: Any) -> bytes:
    return encode(sign(TRUST_TYPE, encode_document(replace(store, version=version)), [by])) + b"\n"
