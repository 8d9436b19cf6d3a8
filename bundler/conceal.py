"""Names and the officer's sheet of an encrypted bundle.

    hidden      sealed-<id8>.v<number>.tar.age, sealed-<id8>.txt    neither models nor label, in no file and no name
    readable    <label>-<id8>.v<number>.tar.age from volume 1 on; the index volume and the sheet in clear

Readers know a volume by any of its four names: with or without its label, encrypted or decrypted by `age -d`.
"""

from __future__ import annotations

from bundler import layout
from bundler.seal import Sealing
from manifests.statement import Statement

SEALED = ".age"
LOCKED = ".identity.age"
LABEL = "sealed"  # what stands in the place of the label

_TEXT = """\
ENCRYPTED BUNDLE {stem}

  bundle id    {id}
  volumes      {count}

What it holds, and who signed it, is inside. The volumes are age files (age-encryption.org/v1); how many they are and
how large is all that they show.

CHECK AND IMPORT
  sealift bundle verify . --identity IDENTITY
  sealift bundle import . --identity IDENTITY
  An approval names the models: sealift bundle approve . --identity IDENTITY --sign OFFICER -o FILE
  writes it elsewhere.

WITHOUT SEALIFT, with age or rage, into a folder that may hold what is inside
  for v in *.tar.age; do age -d -i IDENTITY "$v" > FOLDER/"${{v%.age}}"; done
  cp verify_sealift.py FOLDER && python3 FOLDER/verify_sealift.py FOLDER --pub ALICE.pub

VOLUMES
{names}
"""


def stem(statement: Statement) -> str:
    return f"{LABEL}-{statement.id[:8]}"


def hidden(name: str) -> str:
    """The name of a volume without its label."""
    head, dot, rest = name.rpartition(".v")  # from the end: a label may hold ".v" too
    return f"{LABEL}-{head[-8:]}{dot}{rest}"


def names_of(name: str) -> tuple[str, ...]:
    """All names that a volume may have on a medium, the one that is preferred first."""
    return name, hidden(name), name + SEALED, hidden(name) + SEALED


def alike(one: str, other: str) -> bool:
    """Whether two stems may be of one bundle: they are the same, or one of them hides the label."""
    return one == other or (one[-9:] == other[-9:] and LABEL + one[-9:] in (one, other))


def file_name(statement: Statement, index: int, sealing: Sealing | None) -> str:
    name = layout.volume_name(statement, index)
    if sealing is None or (index == 0 and not sealing.hidden):
        return name
    return (hidden(name) if sealing.hidden else name) + SEALED


def locked_name(statement: Statement, sealing: Sealing) -> str:
    """Of the identity that a passphrase opens."""
    return (stem(statement) if sealing.hidden else layout.stem(statement)) + LOCKED


def sheet(statement: Statement) -> str:
    """Follows from the statement, so a reader can make it again and compare; tells nothing of it but the id."""
    names = [hidden(name) + SEALED for name in layout.volume_names(statement)]
    lines = "\n".join(f"  {name}" for name in names)
    return _TEXT.format(stem=stem(statement), id=statement.id, count=len(names), names=lines)
