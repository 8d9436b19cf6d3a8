"""`show --modelfile` is a model's other form: a Modelfile from it makes the same layers again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.create import CreateRequest, create
from manifests.create_request import request_from_modelfile
from manifests.errors import ModelfileError
from manifests.gguf import Gguf
from manifests.manifest import Manifest
from manifests.modelfile import ROLES, Command, Modelfile, render_command
from manifests.name import ModelName
from manifests.store import Store
from runtime.card import CardBox
from tests.peers.adapters import make_adapter
from tests.peers.gguf_head import gguf_bytes
from tests.peers.model_maker import make_model

NAME, AGAIN = ModelName.parse("shown"), ModelName.parse("again")


def holds(text: str) -> bool:
    """Whether the grammar can hold it; what it cannot is said in a comment."""
    try:
        return bool(render_command(Command(name="system", value=text)))
    except ModelfileError:
        return False


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1, max_size=40)
WORDS = st.one_of(TEXT, st.sampled_from(['a "b" c', " padded ", "two\nlines", '"', "#", "FROM x", "\u200d"])).filter(
    holds
)
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2), "top_k": st.integers(0, 100), "num_ctx": st.integers(4, 1 << 20),
        "use_mmap": st.booleans(), "seed": st.integers(-1, 1 << 40), "stop": st.lists(WORDS, min_size=1, max_size=3),
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def again(store: Store, manifest: Manifest) -> tuple[list[str], list[str]]:
    text = CardBox(store).card(NAME).modelfile(NAME, store)
    made = create(store, AGAIN, request_from_modelfile(Modelfile.parse(text.encode()), store.root))
    first, second = (sorted(f"{layer.kind} {layer.digest}" for layer in one.layers) for one in (manifest, made))
    return first, second


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    system=st.none() | WORDS,
    template=st.sampled_from([None, "{{ .Prompt }}", "{{ .System }}\n\n{{ .Prompt }} ", '"{{ .Prompt }}"\n"x']),
    licenses=st.lists(WORDS, max_size=2, unique=True),
    messages=st.lists(st.tuples(st.sampled_from(ROLES), WORDS), max_size=3),
    parameters=PARAMETERS,
    requires=st.sampled_from([None, "0.14.0", "v1.2.3-rc1"]),
)
def test_a_shown_modelfile_makes_the_same_layers(store: Store, requires: str | None, **fields: Any) -> None:
    files = {"m.gguf": store.put_bytes(gguf_bytes())}
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    manifest = create(store, NAME, CreateRequest(files=files, requires=requires, **fields))
    first, second = again(store, manifest)
    assert first == second
    assert store.manifest(AGAIN).config.digest == manifest.config.digest


def test_adapters_and_projectors_are_shown_too(tmp_path: Path) -> None:
    made = Store(tmp_path / "store")
    model = make_model(tmp_path / "m.gguf")
    adapter = make_adapter(tmp_path / "a.gguf", Gguf.open(model))
    (tmp_path / "p.gguf").write_bytes(gguf_bytes("clip"))
    lines = f"FROM {model}\nFROM {tmp_path / 'p.gguf'}\nADAPTER {adapter}\nSYSTEM x\n"
    manifest = create(made, NAME, request_from_modelfile(Modelfile.parse(lines.encode()), tmp_path))
    first, second = again(made, manifest)
    kinds = [layer.kind for layer in manifest.layers]
    assert first == second and kinds == ["model", "projector", "adapter", "system", "params"]


def test_a_models_own_jinja_is_not_turned_into_a_layer(tmp_path: Path) -> None:
    made = Store(tmp_path / "store")
    model = make_model(tmp_path / "m.gguf")
    create(made, NAME, request_from_modelfile(Modelfile.parse(f"FROM {model}\n".encode()), tmp_path))
    assert "TEMPLATE" not in CardBox(made).card(NAME).modelfile(NAME, made)


def test_whole_numbers_are_written_as_go_writes_them(store: Store) -> None:
    """As in `parameters`, which clients read line by line."""
    files = {"m.gguf": store.put_bytes(gguf_bytes())}
    manifest = create(store, NAME, CreateRequest(files=files, parameters={"temperature": 1.0, "min_p": 0.25}))
    card = CardBox(store).card(NAME)
    lines = [line for line in card.modelfile(NAME, store).splitlines() if line.startswith("PARAMETER")]
    assert lines == ["PARAMETER temperature 1", "PARAMETER min_p 0.25"]
    assert [line.split() for line in card.parameters_text.splitlines()] == [line.split()[1:] for line in lines]
    first, second = again(store, manifest)
    assert first == second
