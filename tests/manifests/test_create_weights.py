"""Making models from what is not a finished GGUF: trees of safetensors, plain floats, adapters; and what is refused."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sealift
from manifests.create import CreateRequest, create, read_config
from manifests.create_request import request_from_modelfile
from manifests.digest import Digest
from manifests.errors import CreateError, FieldError, GgufError, ManifestsError, NoSpace
from manifests.gguf import Gguf
from manifests.lora import pairs
from manifests.manifest import Manifest
from manifests.modelfile import Modelfile
from manifests.name import ModelName
from manifests.safetensors import Safetensors
from manifests.store import Store
from tests.peers import hugging_face as hf
from tests.peers.adapters import make_adapter, merged
from tests.peers.model_maker import make_model, values

NAME = ModelName.parse("mine")


def make(folder: Path, lines: str, name: ModelName = NAME, **how: Any) -> Manifest:
    modelfile = Modelfile.parse(lines.encode())
    quantize = how.pop("quantize", None)
    return create(Store(folder / "store"), name, request_from_modelfile(modelfile, folder, quantize), **how)


def weights(folder: Path, manifest: Manifest) -> Gguf:
    (layer,) = manifest.of_kind("model")
    return Gguf.open(Store(folder / "store").blob_path(layer.digest))


def test_a_folder_becomes_a_model(tmp_path: Path) -> None:
    hf.write_tree(tmp_path / "tree", "llama", dtype="BF16", shards=2)
    lines: list[str] = []
    manifest = make(tmp_path, "FROM ./tree\nSYSTEM hi\n", status=lines.append)
    assert lines[:2] == ["converting model", "verifying conversion"] and lines[-1] == "success"
    model, store = weights(tmp_path, manifest), Store(tmp_path / "store")
    assert model.architecture == "llama" and model.file_type == "BF16"
    assert model.metadata["tokenizer.chat_template"] == "{{ messages[0].content }}"
    assert read_config(store, manifest)["file_type"] == "BF16"
    (record,) = store.records(manifest.digest)
    shard = "model-00001-of-00002.safetensors"
    assert record["files"][shard] == str(Digest.of((tmp_path / "tree" / shard).read_bytes()))
    assert "config.json" in record["files"]
    again = make(tmp_path, "FROM ./tree\nSYSTEM hi\n", ModelName.parse("again"))
    assert again.digest == manifest.digest  # the same files give the same bytes


def test_a_folders_template_for_tools_is_kept_beside_the_default_one(tmp_path: Path) -> None:
    hf.write_tree(tmp_path / "tree", "qwen2")
    path = tmp_path / "tree" / "tokenizer_config.json"
    named = [{"name": name, "template": f"{{{{ '{name}' }}}}"} for name in ("default", "tool_use", "rag")]
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": named}))
    found = weights(tmp_path, make(tmp_path, "FROM tree\n")).metadata
    assert {key: value for key, value in found.items() if "template" in key} == {
        "tokenizer.chat_template": "{{ 'default' }}",
        "tokenizer.chat_template.tool_use": "{{ 'tool_use' }}",
        "tokenizer.chat_templates": ["tool_use"],
    }


def test_the_family_of_a_folders_template_gives_its_stops(tmp_path: Path) -> None:
    hf.write_tree(tmp_path / "tree", "qwen2")
    (tmp_path / "tree" / "chat_template.jinja").write_text(
        "{{ '### User:' }}{{ messages[0].content }}{{ '### Assistant:' }}"
    )
    manifest = make(tmp_path, "FROM tree\n", quantize="q8_0")
    (layer,) = manifest.of_kind("params")
    told = json.loads(Store(tmp_path / "store").read_blob(layer, limit=1 << 10))
    assert told == {"stop": ["### System:", "### User:", "### Assistant"]}


def test_one_file_of_safetensors_stands_for_its_folder(tmp_path: Path) -> None:
    hf.write_tree(tmp_path / "tree", "qwen2")
    assert weights(tmp_path, make(tmp_path, "FROM tree/model.safetensors\n")).architecture == "qwen2"


def test_a_folder_with_one_gguf(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    raw = make_model(tmp_path / "folder" / "m.gguf").read_bytes()
    assert make(tmp_path, "FROM folder\n").layers[0].digest == Digest.of(raw)


def test_uploaded_files_are_converted_and_quantized(tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "store"), hf.write_tree(tmp_path / "tree", "gemma3")
    files = {path.name: store.put_file(path) for path in folder.iterdir()}
    lines: list[str] = []
    manifest = create(store, NAME, CreateRequest(files=files, quantize="q8_0"), lines.append)
    assert "quantizing F32 model to Q8_0" in lines
    assert weights(tmp_path, manifest).tensors["blk.0.ffn_up.weight"].type.name == "Q8_0"
    named = {blob.digest for blob in manifest.blobs()}
    left = {Digest.parse(path.name.replace("-", ":")) for path in store.blobs.iterdir()} - named
    assert left == set(files.values())  # what was uploaded is the client's; what was made on the way is gone


def test_a_quantized_model_of_a_file_and_of_a_model(tmp_path: Path) -> None:
    make_model(tmp_path / "m.gguf", quant="F16")
    whole = make(tmp_path, "FROM m.gguf\nSYSTEM hi\n", ModelName.parse("base"))
    of_file = make(tmp_path, "FROM m.gguf\nSYSTEM hi\n", quantize="Q4_K_M")
    of_model = make(tmp_path, "FROM base\n", ModelName.parse("other"), quantize="q4_k")
    assert of_file.of_kind("model") == of_model.of_kind("model") != whole.of_kind("model")
    store = Store(tmp_path / "store")
    assert read_config(store, of_model)["file_type"] == "Q4_K_M"
    assert store.records(of_model.digest)[0]["quantize"] == "Q4_K_M"
    assert make(tmp_path, "FROM base\n", quantize="F16").of_kind("model") == whole.of_kind("model")  # it is F16 already
    with pytest.raises(CreateError, match="only supported for F16, BF16 and F32"):
        make(tmp_path, "FROM other\n", quantize="q8_0")


def peft(folder: Path, base: Gguf, *, config: dict[str, Any] | None = None, rank: int = 4) -> dict[str, Any]:
    """A PEFT adapter of q and the down projection of two layers, and its matrices."""
    rng = np.random.default_rng(2)
    shapes = {"self_attn.q_proj": (64, 64), "mlp.down_proj": (64, 96)}
    tensors = {}
    for layer in range(2):
        for module, (rows, cols) in shapes.items():
            at = f"base_model.model.model.layers.{layer}.{module}.lora_"
            tensors[f"{at}A.weight"] = rng.standard_normal((rank, cols), np.float32)
            tensors[f"{at}B.weight"] = rng.standard_normal((rows, rank), np.float32)
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(hf.safetensors(tensors))
    facts = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "bias": "none", "fan_in_fan_out": False} | (config or {})
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    return tensors


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_of_peft_means_its_matrices(rslora: bool, tmp_path: Path) -> None:
    """Merging the GGUF adapter into the converted model is converting the merged model."""
    config = hf.config_of("llama", num_hidden_layers=2)
    tensors = hf.tensors_of("llama", config)
    hf.write_tree(tmp_path / "tree", "llama", config=config, tensors=tensors)
    manifest = make(tmp_path, "FROM tree\n", ModelName.parse("base"))
    lora = peft(tmp_path / "lora", weights(tmp_path, manifest), config={"use_rslora": rslora})
    made = make(tmp_path, "FROM base\nADAPTER lora\n")
    (layer,) = made.of_kind("adapter")
    adapter = Gguf.open(Store(tmp_path / "store").blob_path(layer.digest))
    scale = 6 / np.sqrt(4) if rslora else 6 / 4
    for name in list(tensors):
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if f"{key}A.weight" in lora:
            tensors[name] = tensors[name] + np.float32(scale) * lora[f"{key}B.weight"] @ lora[f"{key}A.weight"]
    hf.write_tree(tmp_path / "merged", "llama", config=config, tensors=tensors)
    expected = values(weights(tmp_path, make(tmp_path, "FROM merged\n", ModelName.parse("merged"))))
    base = weights(tmp_path, manifest)
    found = merged(values(base), adapter, values(adapter), float(adapter.metadata["adapter.lora.alpha"]))
    for name, matrix in expected.items():
        np.testing.assert_allclose(found[name], matrix, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "only 'LORA'"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"r": 5}, "rank 5"),
        ({"lora_alpha": "x"}, "lora_alpha"),
    ],
)
def test_adapters_of_peft_that_are_refused(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    hf.write_tree(tmp_path / "tree", "llama")
    base = make(tmp_path, "FROM tree\n", ModelName.parse("base"))
    peft(tmp_path / "lora", weights(tmp_path, base), config=config)
    with pytest.raises(CreateError, match=message):
        make(tmp_path, "FROM base\nADAPTER lora\n")
    assert Store(tmp_path / "store").names() == [ModelName.parse("base")]


def test_an_adapter_must_fit_its_base(tmp_path: Path) -> None:
    base = make_model(tmp_path / "m.gguf")
    make_adapter(tmp_path / "a.gguf", Gguf.open(make_model(tmp_path / "o.gguf", "gemma")))
    with pytest.raises(CreateError, match="ADAPTER: the adapter is for the architecture gemma, the model is a llama"):
        make(tmp_path, "FROM m.gguf\nADAPTER a.gguf\n")
    assert not any((tmp_path / "store" / "blobs").iterdir())
    make_adapter(tmp_path / "a.gguf", Gguf.open(base))
    make(tmp_path, "FROM m.gguf\nADAPTER a.gguf\n")
    with pytest.raises(CreateError, match="only one adapter"):
        make(tmp_path, "FROM mine\nADAPTER a.gguf\n", ModelName.parse("twice"))


def test_the_command_line_prints_ollamas_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hf.write_tree(tmp_path / "tree", "phi3", dtype="F16")
    (tmp_path / "Modelfile").write_text("FROM ./tree\nSYSTEM brief\n")
    monkeypatch.setenv("SEALIFT_MODELS", str(tmp_path / "store"))
    assert sealift.run(["create", "mine", "-f", str(tmp_path / "Modelfile"), "-q", "q4_0"]) == 0
    told = capsys.readouterr()
    lines = [line.removeprefix("sealift: ").partition(" sha256:")[0] for line in told.err.splitlines()]
    assert lines == [
        "gathering model components", "converting model", "verifying conversion", "quantizing F16 model to Q4_0",
        "creating new layer", "creating new layer", "writing manifest", "success",
    ]  # fmt: skip
    assert told.out.startswith("created 'mine:latest'")
    assert sealift.run(["create", "mine", "-f", str(tmp_path / "Modelfile"), "-q", "q2_K"]) == 1
    assert "unsupported quantization type q2_K" in capsys.readouterr().err


# -- what is refused of a tree

Change = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], object]
REFUSED: dict[str, tuple[Change, str]] = {
    "architecture": (lambda c, t, k: c.update(architectures=["FalconForCausalLM"]), "Falcon.* is not converted"),
    "no architecture": (lambda c, t, k: c.pop("architectures"), "architectures"),
    "quantized": (lambda c, t, k: c.update(quantization_config={}), "quantized already"),
    "activation": (lambda c, t, k: c.update(hidden_act="relu"), "hidden_act: found 'relu'"),
    "rope": (lambda c, t, k: c.update(rope_scaling={"rope_type": "yarn", "factor": 4}), "rope_type: found 'yarn'"),
    "layers": (lambda c, t, k: c.update(num_hidden_layers="3"), "num_hidden_layers"),
    "heads": (lambda c, t, k: c.update(num_attention_heads=3), "expected 3 heads"),
    "no head": (lambda c, t, k: t.pop("lm_head.weight"), "lm_head.weight is missing"),
    "no embedding": (lambda c, t, k: t.pop("model.embed_tokens.weight"), "embeddings is missing"),
    "foreign tensor": (lambda c, t, k: t.update({"model.vision.x.weight": np.zeros((2, 2))}), "vision.x.*unknown"),
    "cube": (lambda c, t, k: t.update({"lm_head.weight": np.zeros((2, 2, 2))}), "two dimensions"),
    "cut of words": (lambda c, t, k: k.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer"),
    "pattern": (
        lambda c, t, k: k.update(pre_tokenizer={"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "x"}}),
        "a cut of words that is not known: x",
    ),
    "normalizer": (lambda c, t, k: k.update(normalizer={"type": "Lowercase"}), "normalizer"),
    "other normalizer": (
        lambda c, t, k: k.update(normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "b"}),
        "normalizer",
    ),
    "suffix": (lambda c, t, k: k["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "part of a head": (lambda c, t, k: c.update(partial_rotary_factor=0.5), "partial_rotary_factor"),
    "unigram": (lambda c, t, k: k.update(model={"type": "Unigram", "vocab": [["a", 0]]}), "unigram"),
    "too many tokens": (lambda c, t, k: c.update() or k["model"]["vocab"].update({f"w{i}": 270 + i for i in range(90)}),
                        "tokens, but"),
    "two texts": (lambda c, t, k: k["model"]["vocab"].update(zz=3), "stands for two texts"),
    "merges": (lambda c, t, k: k["model"].update(merges=["abc"]), r"merges\[0\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_trees_that_are_refused(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    config, tokenizer = hf.config_of("llama"), hf.bpe_tokenizer()
    tensors = hf.tensors_of("llama", config)
    change(config, tensors, tokenizer)
    hf.write_tree(tmp_path / "tree", "llama", config=config, tensors=tensors, tokenizer=tokenizer)
    with pytest.raises(CreateError, match=message):
        make(tmp_path, "FROM tree\n")
    store = Store(tmp_path / "store")
    assert not store.names() and not (store.blobs.exists() and any(store.blobs.iterdir()))


def test_an_index_that_lies(tmp_path: Path) -> None:
    folder = hf.write_tree(tmp_path / "tree", "llama", shards=2)
    index = folder / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    for change, message in (
        ({"model.norm.weight": "model-00009-of-00002.safetensors"}, "the index"),
        ({"gone.weight": "model-00001-of-00002.safetensors"}, "where it is not"),
    ):
        index.write_text(json.dumps({"weight_map": whole["weight_map"] | change}))
        with pytest.raises(CreateError, match=message):
            make(tmp_path, "FROM tree\n")
    index.unlink()
    (folder / "model-00003.safetensors").write_bytes((folder / "model-00001-of-00002.safetensors").read_bytes())
    with pytest.raises(CreateError, match="in another file too"):
        make(tmp_path, "FROM tree\n")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.floats(0, 1),
    length=st.none() | st.integers(0, 2**64 - 1),
)
def test_a_damaged_safetensors_header_is_refused_or_sound(
    places: list[tuple[float, int]], cut: float | None, length: int | None
) -> None:
    """Whatever the bytes: our own error, little memory, or tensors that lie inside the file, apart from each other."""
    raw = bytearray(hf.safetensors({"a": np.zeros((4, 8)), "b": np.ones(3)}))
    head = 8 + int.from_bytes(raw[:8], "little")
    for where, value in places:
        raw[int(where * (head - 1))] = value
    if length is not None:
        raw[:8] = length.to_bytes(8, "little")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(raw if cut is None else raw[: int(cut * len(raw))])
        tracemalloc.start()
        try:
            opened = Safetensors.open(path)
            spans = sorted((one.start, one.stop) for one in opened.tensors.values())
            assert all(a[1] == b[0] for a, b in pairwise(spans))
            assert sum(len(opened.data(name)) for name in opened.tensors) == spans[-1][1] if spans else True
        except FieldError:
            pass
        finally:
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
            tracemalloc.stop()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_adapter_is_refused_or_fits(places: list[tuple[float, int]]) -> None:
    base, whole = _adapter()
    raw = bytearray(whole)
    for where, value in places:
        raw[int(where * 1500)] = value  # the head
    try:
        for pair in pairs(Gguf.parse(bytes(raw)), base):
            cols, rows = base.tensors[pair.target].shape
            assert pair.down.shape[0] == cols and pair.up.shape[1] == rows and pair.down.shape[1] == pair.up.shape[0]
    except GgufError:
        pass


_MADE: list[tuple[Gguf, bytes]] = []


def _adapter() -> tuple[Gguf, bytes]:
    if not _MADE:
        with tempfile.TemporaryDirectory() as folder:
            base = Gguf.parse(make_model(Path(folder) / "m.gguf").read_bytes())
            _MADE.append((base, make_adapter(Path(folder) / "a.gguf", base).read_bytes()))
    return _MADE[0]


JSON: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 2**70, 1e308, "", "x", [], [1], [[]], [{}], {}, {"type": "x"}, {"a": [None]}]
)


def parts(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document, but of the long tables only the first rows: what holds it, and its key."""
    for key in list(document)[:20] if isinstance(document, dict) else range(min(2, len(document))):
        yield document, key
        if isinstance(document[key], (dict, list)):
            yield from parts(document[key])


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(kind=st.sampled_from([*hf.CLASSES, "bert"]), data=st.data())
def test_a_document_with_something_else_in_it_is_refused_or_converted(kind: str, data: st.DataObject) -> None:
    """One value anywhere in config or tokenizer is replaced: our own error, or a sound GGUF."""
    config = hf.bert_config() if kind == "bert" else hf.config_of(kind, num_hidden_layers=1, layer_types=None)
    spaced = hf.spm_tokenizer(prefix=True) if kind in ("mistral", "phi3") else hf.bpe_tokenizer()
    tokenizer = hf.word_piece_tokenizer() if kind == "bert" else spaced
    tensors = hf.bert_tensors(config) if kind == "bert" else hf.tensors_of(kind, config)
    part, key = data.draw(st.sampled_from([*parts(config), *parts(tokenizer)]))
    part[key] = data.draw(JSON)
    with tempfile.TemporaryDirectory() as folder:
        hf.write_tree(Path(folder) / "tree", kind, config=config, tensors=tensors, tokenizer=tokenizer)
        with contextlib.suppress(ManifestsError):
            assert weights(Path(folder), make(Path(folder), "FROM tree\n")).tensors


# -- interruptions


def test_killed_half_way_the_store_stays_valid(tmp_path: Path) -> None:
    make_model(tmp_path / "m.gguf", quant="F16")
    before = make(tmp_path, "FROM m.gguf\n", ModelName.parse("base"))
    child = os.fork()
    if child == 0:

        @contextlib.contextmanager
        def bar(title: str, total: int):  # type: ignore[no-untyped-def]
            yield lambda step: os._exit(9)  # at the first bytes of the new file

        try:
            make(tmp_path, "FROM base\n", quantize="q8_0", bar=bar)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    store = Store(tmp_path / "store")
    assert store.names() == [ModelName.parse("base")] and store.manifest(ModelName.parse("base")) == before
    assert {path.name for path in store.blobs.iterdir()} == {blob.digest.file_name for blob in before.blobs()}
    make(tmp_path, "FROM base\n", quantize="q8_0")
    assert not any((store.private / "tmp").iterdir())  # what the killed one left is gone


@pytest.mark.parametrize("lines", ["FROM tree\n", "FROM base\n"])
def test_a_disk_that_fills_up(lines: str, tmp_path: Path) -> None:
    hf.write_tree(tmp_path / "tree", "llama")
    make(tmp_path, "FROM tree\n", ModelName.parse("base"))
    store = Store(tmp_path / "store")
    before = {path.name for path in store.blobs.iterdir()}

    def full(step: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(NoSpace, match="the disk is full"):
        make(tmp_path, lines, quantize="q8_0", bar=lambda title, total: contextlib.nullcontext(full))
    assert store.names() == [ModelName.parse("base")]
    assert {path.name for path in store.blobs.iterdir()} == before


def test_errors_are_of_this_room(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        folder = hf.write_tree(tmp_path / f"tree-{name}", "gemma")
        for raw in (b"", b"[]", b"{", b'{"a": 1, "a": 2}', b"\xff" * 20, b"[" * 9999):
            (folder / name).write_bytes(raw)
            with pytest.raises(ManifestsError):
                make(tmp_path, f"FROM tree-{name}\n")
