"""The gate over whole GGUF files: the hostile ones of the trial, consistency, and no finding on sound ones."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from manifests import gate
from manifests.digest import Digest
from manifests.manifest import OLLAMA_PREFIX
from manifests.scan import weights
from runtime.models.architectures import ARCHITECTURES
from tests.peers import crafted
from tests.peers.model_maker import ARCHITECTURES as MADE
from tests.peers.model_maker import make_model


def found(folder: Path, raw: bytes, kind: str = "model") -> dict[str, str]:
    """Rule -> what was found, in one text."""
    path = folder / "model.gguf"
    path.write_bytes(raw)
    item = gate.Item(media_type=OLLAMA_PREFIX + kind, path=path, digest=Digest.of(raw))
    hits: dict[str, str] = {}
    for finding in gate.examine([item]).findings:
        hits[finding.rule] = f"{hits.get(finding.rule, '')}{finding.text}; "
    return hits


@pytest.mark.parametrize("name", crafted.HOSTILE)
def test_every_hostile_file_is_refused_by_its_rule(tmp_path: Path, name: str) -> None:
    raw, rule = crafted.HOSTILE[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    report = gate.examine([gate.Item(media_type=gate.FILE, path=path, name="model.gguf")])
    assert rule in {finding.rule for finding in report.refused}


def test_all_of_them_in_the_confined_child(tmp_path: Path) -> None:
    models = []
    for i, (raw, _) in enumerate(crafted.HOSTILE.values()):
        (tmp_path / f"{i}.gguf").write_bytes(raw)
        models.append([gate.Item(media_type=gate.FILE, path=tmp_path / f"{i}.gguf", name=f"{i}.gguf")])
    report = gate.run(models)
    refused = {finding.place for finding in report.refused}
    assert refused == {f"{i}.gguf" for i in range(len(models))}
    assert not any("jinja2" in reason for reason in report.not_checked)


def test_a_model_that_agrees_with_itself_has_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path, crafted.model()) == {}


@pytest.mark.parametrize(
    ("facts", "shapes", "rule", "words"),
    [
        ({"llama.block_count": 2}, {}, "gguf.blocks", "no blk.1"),
        ({"llama.block_count": 0}, {}, "gguf.blocks", "blk.0, but block_count is 0"),
        ({"llama.block_count": "1"}, {}, "gguf.blocks", "expected a number"),
        ({"llama.embedding_length": 4}, {}, "gguf.widths", "token_embd.weight: rows of 8"),
        ({"llama.feed_forward_length": 8}, {}, "gguf.widths", "ffn_"),
        ({"llama.attention.head_count": 1, "llama.attention.key_length": 4}, {}, "gguf.widths", "attn_q"),
        ({}, {"blk.0.attn_k.weight": (8, 8)}, "gguf.widths", "attn_k"),
        ({}, {"blk.0.attn_norm.weight": (4,)}, "gguf.widths", "attn_norm"),
        ({}, {"token_embd.weight": (8, 9)}, "gguf.vocabulary", "8 tokens, token_embd.weight has 9 rows"),
        ({"llama.vocab_size": 9}, {}, "gguf.vocabulary", "vocab_size 9"),
        ({"tokenizer.ggml.eos_token_id": 8}, {}, "gguf.special-token", "eos_token_id: 8"),
        ({"tokenizer.ggml.bos_token_id": -1}, {}, "gguf.special-token", "bos_token_id: found -1"),
        ({"tokenizer.ggml.bos_token_id": True}, {}, "gguf.special-token", "bos_token_id: found True"),
        ({"tokenizer.ggml.eot_token_ids": [1, 99]}, {}, "gguf.special-token", "eot_token_ids: 99"),
        ({"tokenizer.ggml.scores": [0.0] * 7}, {}, "gguf.arrays", "7 elements for 8 tokens"),
        ({"tokenizer.ggml.token_type": (0, "B", [1] * 8)}, {}, "gguf.arrays", "found U8, expected an array of I32"),
        ({"tokenizer.ggml.tokens": 5}, {}, "gguf.arrays", "found U32"),
        ({"tokenizer.ggml.merges": [1, 2]}, {}, "gguf.arrays", "merges: found I32"),
        ({"general.file_type": 2}, {"blk.0.ffn_down.weight": (32, 8)}, "gguf.file-type", "no matrix is Q4_0"),
        ({"split.count": 2, "split.no": 0}, {}, "gguf.split", "part 0 of 2"),
        ({"split.no": 3}, {}, "gguf.split", "part 3"),
        ({"general.architecture": "mystery"}, {}, "gguf.unknown-architecture", "mystery"),
        ({"general.architecture": None}, {}, "gguf.architecture", "expected a name"),
        ({"tokenizer.chat_template": 7}, {}, "template.syntax", "found int"),
    ],
)
def test_consistency(tmp_path: Path, facts: dict[str, Any], shapes: Any, rule: str, words: str) -> None:
    hits = found(tmp_path, crafted.model(facts, shapes))
    assert rule in hits and words in hits[rule]


@pytest.mark.parametrize("kind", ["adapter", "projector", "draft"])
def test_other_gguf_layers_are_looked_at_too(tmp_path: Path, kind: str) -> None:
    hits = found(tmp_path, crafted.model({"tokenizer.chat_template": crafted.SSTI}), kind)
    assert "template.gadget" in hits


@pytest.mark.parametrize("architecture", MADE)
def test_made_models_have_no_finding(tmp_path: Path, architecture: str) -> None:
    path = make_model(tmp_path / "m.gguf", architecture)
    assert gate.examine([gate.Item(media_type=gate.FILE, path=path, name="m.gguf")]).findings == ()


@pytest.mark.skipif(not os.environ.get("SEALIFT_TEST_MODEL"), reason="SEALIFT_TEST_MODEL names the real model")
def test_the_real_model_has_no_finding() -> None:
    path = Path(os.environ["SEALIFT_TEST_MODEL"])
    assert gate.run([[gate.Item(media_type=gate.FILE, path=path, name=path.name)]]).findings == ()


def test_the_table_of_architectures_is_the_runtimes() -> None:
    assert set(weights.ARCHITECTURES) == set(ARCHITECTURES)


def test_mutated_heads_end_in_findings_never_in_a_fault(tmp_path: Path) -> None:
    """Any few bytes changed: the examination ends, and says something or nothing."""
    numbers, sound = random.Random(8), crafted.model({"tokenizer.chat_template": "{% if a %}{{ b }}{% endif %}"})
    for _ in range(400):
        raw = bytearray(sound)
        for _ in range(numbers.randint(1, 4)):
            raw[numbers.randrange(800)] = numbers.choice([0, 1, 0xFF, numbers.randrange(256)])
        found(tmp_path, bytes(raw))
