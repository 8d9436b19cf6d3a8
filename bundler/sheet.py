"""The officer's sheet: what, who, how much, hashes, and how to check and recover with plain tools. Plain text, 100
columns.

It follows from the statement and its envelope alone, so a reader can make it again and compare.
"""

from __future__ import annotations

from bundler import layout
from manifests.statement import Statement
from signing import envelope as dsse

_COMMANDS = """\
CHECK
  with sealift:          sealift bundle verify .
  with Python 3.8+ only: python3 verify_sealift.py . --pub ALICE.pub
                         (take the .pub file from a trusted place, not from this medium;
                         where an approval is needed: --approver OFFICER.pub)
  with plain tools:      tail -c SIZE VOLUME | sha256sum     SIZE and hash as listed under VOLUMES

APPROVE
  sealift bundle approve . --sign OFFICER
  It checks every byte, says what is in the bundle, and writes one small file beside the volumes,
  or where -o says if nothing can be written here. The volumes stay as they are: carry the file too.

REPAIR, if volumes are lost or damaged and parity volumes (*.p001.tar and so on) came along
  sealift bundle repair . --in-place

RECOVER WITHOUT SEALIFT (volumes named *.tar.age first: age -d -i IDENTITY V.tar.age > V.tar)
  mkdir layout && for v in *.v*.tar; do tar -xf "$v" -C layout; done && cd layout
  for d in seg/*; do cat "$d"/* > blobs/sha256/"${d#seg/}" && rm -r "$d"; done
  (cd blobs/sha256 && for f in *; do echo "$f  $f"; done | sha256sum -c)
  The folder is then an OCI image layout (oras, skopeo). One blob alone: cat seg/HEX/* | sha256sum
"""


def _supposed(statement: Statement) -> list[str]:
    """Of a delta: what is not on the medium."""
    if statement.since is None:
        return []
    lines = [
        f"  ONLY WHAT CHANGED since {statement.since}",
        "               The other side's store must hold these blobs, or the import refuses the bundle:",
    ]
    lines += [f"    {blob.digest.hex}  {blob.size:,} bytes" for blob in statement.held]
    for blob in statement.built:
        if blob.built:
            lines += [f"    {blob.digest.hex}", f"      is built there from {blob.built.base.hex}"]
    return lines


def text(statement: Statement, envelope: bytes) -> str:
    sizes = {blob.digest: blob.size for blob in statement.blobs}
    lines = [
        f"SEALED BUNDLE {layout.stem(statement)}",
        "",
        f"  bundle id    {statement.id}",
        f"  channel      {statement.channel}, number {statement.sequence}",
        f"  created      {statement.created} with {statement.tool}",
        *([f"  valid until  {statement.expires}"] if statement.expires else []),
        f"  contents     {len(statement.models)} model(s), {sum(sizes.values()):,} bytes",
        f"  volumes      {len(statement.volumes)}",
        *_supposed(statement),
        "",
        "MODELS",
    ]
    for model in statement.models:
        lines += [f"  {model.name.full}", f"    manifest  {model.manifest}"]
        lines += [f"    {key:<9} {value}" for key, value in sorted(model.source.items())]
    lines += ["", "SIGNATURES BY KEY (who a key belongs to is said by your trust.toml, not by this sheet)"]
    lines += [f"  {signature.keyid}" for signature in dsse.decode(envelope).signatures]
    lines += ["  signatures that were added later lie beside the volumes, in files named"]
    lines += [f"  {layout.stem(statement)}.approval-*.dsse.json"]
    lines += ["", "VOLUMES: name, size of the payload at its end in bytes, SHA-256 of the payload"]
    for name, volume in zip(layout.volume_names(statement), statement.volumes, strict=True):
        lines += [f"  {name}  {volume.size}", f"    {volume.sha256.hex}"]
    lines += ["", f"  {layout.VERIFIER}", f"    {statement.verifier.hex}", "", _COMMANDS]
    return "\n".join(lines)
