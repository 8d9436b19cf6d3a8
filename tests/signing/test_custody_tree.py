"""The tree of RFC 6962: the reference inputs of Certificate Transparency, against the definition written down again."""

from __future__ import annotations

import hashlib

import pytest

from signing import custody_tree as tree

# the eight leaves of the reference tests of Certificate Transparency, in hexadecimal
ENTRIES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = {  # of the first n of them, as that project lists them
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def definition(entries: list[bytes]) -> bytes:
    """Section 2.1 word by word: MTH({}), MTH({d0}), and the split at the largest power of two smaller than n."""
    if not entries:
        return hashlib.sha256().digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = max(1 << i for i in range(32) if 1 << i < len(entries))
    return hashlib.sha256(b"\x01" + definition(entries[:k]) + definition(entries[k:])).digest()


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_definition(size: int) -> None:
    found = tree.root([tree.leaf(entry) for entry in ENTRIES[:size]])
    assert found == definition(ENTRIES[:size])
    assert found.hex() == ROOTS.get(size, found.hex())


LEAVES = [tree.leaf(bytes([i])) for i in range(20)]


@pytest.mark.parametrize("size", range(1, 20))
def test_inclusion_of_every_leaf_and_of_no_other(size: int) -> None:
    leaves, root = LEAVES[:size], tree.root(LEAVES[:size])
    for index in range(size):
        path = tree.inclusion(leaves, index)
        assert tree.included(leaves[index], index, size, path, root)
        for other in range(size + 1):
            if other != index:
                assert not tree.included(leaves[index], other, size, path, root)
        assert not tree.included(LEAVES[19], index, size, path, root)
        for at in range(len(path)):
            assert not tree.included(leaves[index], index, size, [*path[:at], LEAVES[19], *path[at + 1 :]], root)
            assert not tree.included(leaves[index], index, size, [*path[:at], *path[at + 1 :]], root)
        assert not tree.included(leaves[index], index, size, [*path, LEAVES[19]], root)
    assert not tree.included(leaves[0], -1, size, [], root)


@pytest.mark.parametrize("size", range(1, 20))
def test_consistency_with_every_beginning_and_with_no_other(size: int) -> None:
    leaves, root = LEAVES[:size], tree.root(LEAVES[:size])
    for first in range(1, size + 1):
        path, old = tree.consistency(leaves, first), tree.root(leaves[:first])
        assert tree.consistent(first, size, path, old, root)
        assert not tree.consistent(first, size, path, LEAVES[19], root)
        assert not tree.consistent(first, size, path, old, LEAVES[19])
        for at in range(len(path)):
            assert not tree.consistent(first, size, [*path[:at], LEAVES[19], *path[at + 1 :]], old, root)
    assert not tree.consistent(0, size, [], tree.EMPTY, root)
