"""What an import leaves behind for an audit: a record with each model, and the signed statement itself.

<models>/.sealift/records/<manifest>/…-import.json   who signed, which bundle, what was and was not checked
<models>/.sealift/statements/<digest>.dsse.json      the envelope with the signatures of all approvals, so that they
                                                     can be checked again
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from manifests.gate import Finding
from manifests.statement import Model
from manifests.store import Store, disk_errors, sync_file, sync_folder

if TYPE_CHECKING:
    from bundler.importer import Imported, ImportReport
    from bundler.verify import VerifiedBundle


def findings_out(findings: Sequence[Finding]) -> list[dict[str, str]]:
    return [finding.as_dict() for finding in findings]


def record(store: Store, result: ImportReport, item: Imported, model: Model) -> None:
    """One event in the life of a model. Written after the model became visible."""
    statement = result.bundle.statement
    facts: dict[str, Any] = {
        "time": result.time,
        "name": item.name.full,
        "action": item.action,
        "bundle": {
            "id": statement.id,
            "label": statement.label,
            "channel": statement.channel,
            "sequence": statement.sequence,
            "created": statement.created,
            "tool": statement.tool,
            "statement": str(result.bundle.statement_digest),
        },
        "source": dict(model.source),
        "signers": list(result.bundle.verdict.signers),
        "verdict": result.bundle.verdict.sentences(),
        "findings": findings_out(result.findings),
        "notes": list(result.notes),
        "not_checked": list(result.not_checked),
    }
    if item.previous is not None:
        facts["previous"] = str(item.previous)
    store.add_record(item.manifest, "import", facts)


def keep_envelope(store: Store, bundle: VerifiedBundle) -> None:
    folder = store.private / "statements"
    with store.temporary() as temp, disk_errors(store.root):
        folder.mkdir(parents=True, exist_ok=True)
        with temp.open("xb") as out:
            out.write(bundle.envelope)
            sync_file(out)
        temp.rename(folder / f"{bundle.statement_digest.hex}.dsse.json")
        sync_folder(folder)
