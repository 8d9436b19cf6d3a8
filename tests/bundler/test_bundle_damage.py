"""Any flipped bit in any volume, any missing, swapped, renamed, doubled or mixed volume: refused, the store
untouched."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler import layout, sha256
from bundler.draft import Options
from bundler.errors import BundleRefused, BundlerError, VolumeDamaged, VolumeMissing, VolumeMixed
from manifests.errors import ManifestsError
from native.sha256 import side_by_side
from signing.errors import NotTrusted, SigningError
from tests.peers.bundles import LEAF, Gap, put_model, small_gguf, tree, volumes
from tests.peers.forgery import flip

REFUSALS = (BundlerError, SigningError, ManifestsError)
# Coprime to 512 and to 8, so that every place of a block and every bit is met over a bundle.
STRIDE = 241
SMALL = Options(volume_size=80 << 10, leaf_size=LEAF)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Gap:
    root = tmp_path_factory.mktemp("damage")
    os.environ["SEALIFT_HOME"] = str(root / "home")
    gap = Gap(root)
    gap.model(rows=160)
    gap.export(options=SMALL)
    del os.environ["SEALIFT_HOME"]
    return gap


@pytest.fixture
def gap(made: Gap, tmp_path: Path) -> Gap:
    """A fresh copy of one exported bundle."""
    fresh = Gap(tmp_path)
    shutil.copytree(made.medium, fresh.medium, dirs_exist_ok=True)
    return fresh


def test_the_undamaged_bundle_is_accepted(gap: Gap) -> None:
    assert gap.verify().complete


@pytest.mark.parametrize("kind", ["hashlib", "side by side"])
def test_any_flipped_bit_is_refused(gap: Gap, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sha256, "side_by_side", side_by_side if kind == "side by side" else lambda: None)
    accepted = []
    for path in volumes(gap.medium):
        for offset in range(0, path.stat().st_size, STRIDE):
            mask = 1 << offset % 8
            flip(path, offset, mask)
            try:
                gap.verify()
                accepted.append((path.name, offset))
            except REFUSALS:
                pass
            flip(path, offset, mask)
    assert not accepted
    assert gap.verify().complete, "the flips were undone"


def test_every_header_padding_and_end_is_compared(gap: Gap) -> None:
    """Every 7th byte of what is not content: the places where a lenient reader would not look."""
    path = volumes(gap.medium)[1]
    size = path.stat().st_size
    for offset in [*range(0, 1024 + 512, 7), *range(size - 1024, size, 7)]:
        flip(path, offset, 128)
        with pytest.raises(REFUSALS):
            gap.verify()
        flip(path, offset, 128)


def test_an_import_of_damage_leaves_the_store_as_it_was(gap: Gap) -> None:
    put_model(gap.far, "older", small_gguf(gap.root / "w.gguf").read_bytes())
    before = {name: value for name, value in tree(gap.far.root).items() if not name.startswith(".sealift")}
    medium = tree(gap.medium)
    for path in volumes(gap.medium):
        for place in (600, 20_000, path.stat().st_size - 3):
            flip(path, place)
            with pytest.raises(REFUSALS):
                gap.bring_in()
            flip(path, place)
            after = {name: value for name, value in tree(gap.far.root).items() if not name.startswith(".sealift")}
            assert after == before
    assert tree(gap.medium) == medium
    gap.bring_in()


def mangle_missing(folder: Path) -> None:
    volumes(folder)[1].unlink()


def mangle_index_missing(folder: Path) -> None:
    volumes(folder)[0].unlink()


def mangle_copied(folder: Path) -> None:
    path = volumes(folder)[1]
    shutil.copy(path, folder / path.name.replace(".v001", ".v009"))


def mangle_copied_beside(folder: Path) -> None:
    path = volumes(folder)[1]
    shutil.copy(path, folder / path.name.replace(".tar", " (1).tar"))


def mangle_renamed(folder: Path) -> None:
    path = volumes(folder)[1]
    path.rename(folder / "part-two.tar")


def mangle_all_renamed(folder: Path) -> None:
    for path in volumes(folder):
        path.rename(folder / path.name.replace("mine-", "theirs-"))


def mangle_swapped(folder: Path) -> None:
    a, b = volumes(folder)[1:3]
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)


def mangle_truncated(folder: Path) -> None:
    path = volumes(folder)[1]
    os.truncate(path, path.stat().st_size - 512)


def mangle_emptied(folder: Path) -> None:
    os.truncate(volumes(folder)[0], 0)


def mangle_trailing(folder: Path) -> None:
    with volumes(folder)[1].open("ab") as stream:
        stream.write(bytes(512))


def mangle_pipe(folder: Path) -> None:
    path = volumes(folder)[1]
    path.unlink()
    os.mkfifo(path)


def mangle_sheet(folder: Path) -> None:
    sheet = next(folder.glob("*.txt"))
    sheet.write_text(sheet.read_text().replace("mine", "nice"))


def mangle_verifier(folder: Path) -> None:
    with (folder / layout.VERIFIER).open("a") as stream:
        stream.write("\n")


@pytest.mark.parametrize(
    ("mangle", "error", "words"),
    [
        (mangle_missing, VolumeMissing, "1 of"),
        (mangle_index_missing, VolumeMissing, "v000"),
        (mangle_copied, VolumeMixed, "twice"),
        (mangle_copied_beside, VolumeMixed, "twice"),
        (mangle_renamed, VolumeMixed, "renamed"),
        (mangle_all_renamed, VolumeMixed, "renamed"),
        (mangle_swapped, BundleRefused, "v00"),
        (mangle_truncated, VolumeDamaged, "truncated"),
        (mangle_emptied, VolumeDamaged, "ends"),
        (mangle_trailing, VolumeDamaged, "after the end"),
        (mangle_pipe, VolumeMixed, "regular file"),
        (mangle_sheet, BundleRefused, "sheet"),
        (mangle_verifier, BundleRefused, "verify_sealift"),
    ],
)
@pytest.mark.parametrize("verb", ["verify", "dry run", "import"])
def test_volumes_that_are_not_right(
    gap: Gap, mangle: Callable[[Path], None], error: type[Exception], words: str, verb: str
) -> None:
    mangle(gap.medium)
    with pytest.raises(error, match=words) as caught:
        if verb == "import":
            gap.bring_in()
        else:
            gap.verify(dry_run=verb == "dry run")
    assert getattr(caught.value, "exit_code", None) == 1
    assert not gap.far.blobs.exists() and not gap.far.manifests.exists()


def test_parts_of_two_bundles_mixed(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same models sealed twice: every payload is equal, and yet the volumes belong to different statements."""
    monkeypatch.setenv("SEALIFT_HOME", str(gap.root / "home"))
    gap.model(rows=160)
    gap.export(options=SMALL, out=gap.root / "b")
    ours, theirs = volumes(gap.medium), volumes(gap.root / "b")
    ours[1].write_bytes(theirs[1].read_bytes())
    with pytest.raises(BundleRefused, match=ours[1].name):
        gap.verify()
    ours[1].unlink()
    shutil.copy(theirs[1], gap.medium)
    with pytest.raises(VolumeMixed, match="2 bundles"):
        gap.verify()


def test_foreign_files_on_the_medium_do_not_matter(gap: Gap) -> None:
    (gap.medium / "System Volume Information").mkdir()
    (gap.medium / "holiday.tar").write_bytes(b"not a volume" * 100)
    (gap.medium / "mine-00000000.v000.tar.tmp").write_bytes(b"")
    (gap.medium / "folder.tar").mkdir()
    assert gap.verify().complete


def test_an_unreadable_sector_is_named_and_the_import_resumes(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    from bundler import medium as medium_room
    from bundler.errors import MediumUnavailable

    real, counter = medium_room.VolumeReader.read_into, itertools.count()

    def faulty(self: medium_room.VolumeReader, view: memoryview, what: str) -> None:
        if next(counter) == 40:
            from bundler.errors import medium_errors

            with medium_errors(self.path):
                raise OSError(5, "Input/output error", str(self.path))
        real(self, view, what)

    monkeypatch.setattr(medium_room.VolumeReader, "read_into", faulty)
    with pytest.raises(MediumUnavailable, match="v00") as caught:
        gap.bring_in()
    assert caught.value.exit_code == 4 and not gap.far.blobs.exists()
    assert gap.bring_in().complete


def test_untrusted_and_damaged_is_untrusted_or_refused_never_accepted(gap: Gap) -> None:
    from tests.peers.bundles import signer, trusting

    for path in volumes(gap.medium)[:1]:
        flip(path, 3000)
        with pytest.raises((NotTrusted, *REFUSALS)):
            gap.verify(trust=trusting(signer("mallory")))
