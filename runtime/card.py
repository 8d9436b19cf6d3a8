"""ModelCard: what a stored model says about itself, without loading it. Read from the manifest's small layers and the
head of its GGUF file, cached by manifest digest (so a model copied in by hand is seen at once and never seen stale).

Refuses layers that are not what their type says (params that are no JSON object, messages that are no list): such a
model does not open, as in Ollama. Capabilities are what the model *and this server* can do: a model whose template
has no place for tools is not listed with `tools`, whatever its config says.
"""

from __future__ import annotations

import copy
import functools
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manifests.digest import Digest
from manifests.errors import ManifestsError, ModelfileError
from manifests.fields import parse_json
from manifests.gguf import Gguf, count_text
from manifests.gguf_values import PassStrings
from manifests.home import setting
from manifests.manifest import Descriptor, Manifest
from manifests.modelfile import Command, render_command
from manifests.name import ModelName
from manifests.store import Store
from native.errors import NativeError
from native.record import record
from runtime.errors import ModelRefused
from runtime.text.errors import TemplateError, TextError

if TYPE_CHECKING:
    from runtime.text.prompt import Renderer
    from runtime.text.tokenizer import Tokenizer

MAX_LAYER = 16 << 20  # bytes of a text layer
CACHED = 4096  # cards kept, some 50 kB each: fewer than a store has would be read anew for every list
SERVED = ("completion", "tools", "insert", "embedding", "thinking")  # what this server offers, as it is listed
SPOKEN = frozenset({"tools", "insert", "thinking"})  # of these: what the template must have a place for
ROLES = ("system", "user", "assistant", "tool")
NO_TEMPLATE = "{{ .Prompt }}"


@record(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """`shape` in GGUF order, fastest dimension first."""

    name: str
    type: str
    shape: tuple[int, ...]


@record(frozen=True, slots=True, kw_only=True)
class GgufFacts:
    """The head of a GGUF file without its long arrays, which are None in `info`."""

    architecture: str
    info: Mapping[str, Any]
    chat_template: str | None
    tool_template: str | None
    parameter_count: int
    file_type: str
    tensors: tuple[TensorFacts, ...]

    def number(self, key: str) -> int:
        """`<architecture>.<key>`, or 0 where it is absent or not a number."""
        value = self.info.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) else 0


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """`template`: the Go template layer; `gguf.chat_template`: the file's own Jinja, `gguf.tool_template`: the one that
    it has for conversations with tools. `messages`: (role, content). `purposes`: those capabilities that need no
    look at a template; to parse one takes longer than to read all the rest."""

    manifest: Manifest = field(repr=False)
    config: Mapping[str, Any]
    template: str | None
    system: str
    params: Mapping[str, Any]
    messages: tuple[tuple[str, str], ...]
    licenses: tuple[str, ...]
    gguf: GgufFacts | None
    purposes: frozenset[str]

    @functools.cached_property
    def capabilities(self) -> tuple[str, ...]:
        """Rules of the contract, 3.4, cut to SERVED. What a template must carry is told by the template that is used,
        whatever the config lists."""
        found = self.purposes | (self._spoken() & SPOKEN)
        return tuple(name for name in SERVED if name in found)

    @property
    def judged(self) -> bool:
        """Whether `capabilities` takes no time any more."""
        return "capabilities" in self.__dict__

    def can(self, capability: str) -> bool:
        """Whether it is among `capabilities`, found out with as little work as may be."""
        return capability in (self.capabilities if capability in SPOKEN else self.purposes)

    def _spoken(self) -> frozenset[str]:
        nobody: Any = _NoTokenizer()
        try:
            return self.renderer(nobody).capabilities()
        except TextError:  # told when the model is asked
            return frozenset()

    @property
    def weights(self) -> Descriptor:
        """The layer with the weights: of several, the last one counts."""
        layers = self.manifest.of_kind("model")
        if not layers:
            raise ModelRefused("the model has no weights of its own", hint="sealift runs models in GGUF form")
        return layers[-1]

    @property
    def adapters(self) -> tuple[Descriptor, ...]:
        """The layers of the LoRAs that are added to the weights, in order."""
        return self.manifest.of_kind("adapter")

    @property
    def content(self) -> str:
        """As ModelSource.content."""
        return " ".join(str(layer.digest) for layer in (self.weights, *self.adapters))

    @property
    def shown_template(self) -> str:
        """The layer's, the file's own, or what stands in for it."""
        from runtime.text.jinja import JinjaTemplate
        from runtime.text.prompt import stand_in

        jinja = self.gguf.chat_template if self.gguf else None
        if self.template or not jinja:
            return self.template or NO_TEMPLATE
        try:
            return JinjaTemplate(jinja).source
        except TemplateError:
            return stand_in(jinja) or jinja

    def renderer(self, tokenizer: Tokenizer) -> Renderer:
        """Which template speaks for the model: OLLAMA_GO_TEMPLATE decides between two, or the one that can do more.
        Raises TemplateError."""
        from runtime.text.prompt import Renderer

        told = setting("GO_TEMPLATE")
        return Renderer.choose(
            tokenizer,
            template=self.template,
            jinja=self.gguf.chat_template if self.gguf else None,
            jinja_tools=self.gguf.tool_template if self.gguf else None,
            prefer_go=told.lower() not in _FALSE if told else None,
            parser_name=_text(self.config, "parser"),
        )

    @property
    def details(self) -> dict[str, Any]:
        family = _text(self.config, "model_family") or (self.gguf.architecture if self.gguf else "")
        families = self.config.get("model_families")
        size = _text(self.config, "model_type") or (count_text(self.gguf.parameter_count) if self.gguf else "")
        details: dict[str, Any] = {
            "parent_model": "",
            "format": _text(self.config, "model_format") or ("gguf" if self.gguf else ""),
            "family": family,
            "families": families if isinstance(families, list) and families else [family],
            "parameter_size": size,
            "quantization_level": _text(self.config, "file_type") or (self.gguf.file_type if self.gguf else ""),
        }
        if self.gguf:
            lengths = {
                "context_length": self.gguf.number("context_length"),
                "embedding_length": self.gguf.number("embedding_length"),
            }
            details |= {name: length for name, length in lengths.items() if length}
        return details

    @property
    def parameters_text(self) -> str:
        """One line per value, in the order of the params layer."""
        lines = []
        for name in self.params:
            value = self.params[name]
            for item in value if isinstance(value, list) else [value]:
                lines.append(f"{name:<30} {json.dumps(_as_go_has_it(item), ensure_ascii=False)}")
        return "\n".join(lines)

    def modelfile(self, name: ModelName, store: Store) -> str:
        """A Modelfile that makes this model again from the blobs of this store."""
        commands = [Command(name="from", value=str(store.blob_path(self.weights.digest)))]
        for command, kind in (("from", "projector"), ("adapter", "adapter")):
            paths = [str(store.blob_path(layer.digest)) for layer in self.manifest.of_kind(kind)]
            commands += [Command(name=command, value=path) for path in paths]
        if self.template is not None:  # else the weights' own serves, and a layer would replace it
            commands.append(Command(name="template", value=self.template))
        if self.system:
            commands.append(Command(name="system", value=self.system))
        commands += [
            Command(name=key, value=text)
            for key in ("renderer", "parser", "requires")
            if (text := _text(self.config, key))
        ]
        for parameter in self.params:
            value = self.params[parameter]
            for item in value if isinstance(value, list) else [value]:
                text = item if isinstance(item, str) else json.dumps(_as_go_has_it(item))
                commands.append(Command(name="parameter", key=parameter, value=text))
        commands += [Command(name="license", value=text) for text in self.licenses]
        commands += [Command(name="message", key=role, value=content) for role, content in self.messages]
        head = '# Modelfile generated by "sealift show"\n# To build a new Modelfile based on this, replace FROM with:\n'
        return f"{head}# FROM {name.short}\n\n" + "".join(_render(command) + "\n" for command in commands)


def _render(command: Command) -> str:
    try:
        return render_command(command)
    except ModelfileError as error:
        return f"# {error}"


class CardBox:
    """Cards of one store. Safe to use from several threads: one reads at a time, so that a card that many ask for is
    read once, and none waits for it who needs one at hand."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._cards: OrderedDict[Digest, ModelCard] = OrderedDict()
        self._facts: dict[Digest, GgufFacts] = {}  # of the weights of these cards: models of one base share them
        self._lock = threading.Lock()
        self._reading = threading.Lock()

    def through(self, store: Store) -> CardBox:
        """The same cards, for names as another view of this store knows them."""
        other = copy.copy(self)
        other.store = store
        return other

    def known(self, name: ModelName) -> ModelCard | None:
        """The card of a model that is stored in this spelling, if it was read before; its manifest is read again."""
        manifest = self.store.present(name) if self.store.manifest_path(name).is_file() else None
        return self._at_hand(manifest) if manifest is not None else None

    def _at_hand(self, manifest: Manifest) -> ModelCard | None:
        with self._lock:
            if manifest.digest in self._cards:
                self._cards.move_to_end(manifest.digest)
            return self._cards.get(manifest.digest)

    def card(self, name: ModelName) -> ModelCard:
        """Blocks on disk at first sight of a manifest. Raises NotFound, or what is wrong with the model."""
        manifest = self.store.manifest(name)
        if (known := self._at_hand(manifest)) is not None:
            return known
        with self._reading:
            return self._at_hand(manifest) or self._read(manifest)

    def _read(self, manifest: Manifest) -> ModelCard:
        card = read_card(self.store, manifest, self._facts)
        with self._lock:
            if card.gguf is not None:
                self._facts[card.weights.digest] = card.gguf
            self._cards[manifest.digest] = card
            while len(self._cards) > CACHED:
                self._forget(self._cards.popitem(last=False)[1])
        return card

    def _forget(self, card: ModelCard) -> None:
        if card.gguf is not None and all(card.gguf is not other.gguf for other in self._cards.values()):
            self._facts.pop(card.weights.digest, None)


def read_card(store: Store, manifest: Manifest, known: Mapping[Digest, GgufFacts]) -> ModelCard:
    """`known`: facts of files, by digest, that need not be read again."""
    config = _json_layer(store, manifest.config, dict)
    template = _last_text(store, manifest, "template", "prompt")
    models = manifest.of_kind("model")
    gguf = (known.get(models[-1].digest) or _facts(store, models[-1])) if models else None
    params = _last(manifest, "params")
    messages = _last(manifest, "messages")
    return ModelCard(
        manifest=manifest,
        config=config,
        template=template,
        system=_last_text(store, manifest, "system") or "",
        params=_json_layer(store, params, dict) if params else {},
        messages=tuple(_message(value) for value in _json_layer(store, messages, list)) if messages else (),
        licenses=tuple(_text_layer(store, layer) for layer in manifest.of_kind("license")),
        gguf=gguf,
        purposes=_purposes(config, gguf),
    )


def _last(manifest: Manifest, *kinds: str) -> Descriptor | None:
    found = [layer for layer in manifest.layers if layer.kind in kinds]
    return found[-1] if found else None


def _last_text(store: Store, manifest: Manifest, *kinds: str) -> str | None:
    layer = _last(manifest, *kinds)
    return _text_layer(store, layer) if layer else None


def _text_layer(store: Store, layer: Descriptor) -> str:
    return store.read_blob(layer, limit=MAX_LAYER).decode("utf-8", "replace")


def _json_layer(store: Store, layer: Descriptor, kind: type[Any]) -> Any:
    try:
        value = parse_json(store.read_blob(layer, limit=MAX_LAYER), limit=MAX_LAYER)
    except ManifestsError as error:
        raise ModelRefused(f"{layer.kind} layer {layer.digest}: {error}", hint=error.hint) from None
    if not isinstance(value, kind):
        raise ModelRefused(
            f"{layer.kind} layer {layer.digest}: expected a JSON {kind.__name__}, found {type(value).__name__}"
        )
    return value


def _message(value: Any) -> tuple[str, str]:
    role, content = (value.get("role"), value.get("content")) if isinstance(value, dict) else (None, None)
    if role not in ROLES or not isinstance(content, str):
        raise ModelRefused("messages layer: expected objects with a role and a content")
    return role, content


def _facts(store: Store, layer: Descriptor) -> GgufFacts:
    store.open_blob(layer.digest).close()  # there, and no pipe
    gguf = Gguf.head(store.blob_path(layer.digest), arrays=False, pass_strings=_fast())
    default, for_tools = (gguf.metadata.get(f"tokenizer.chat_template{name}") for name in ("", ".tool_use"))
    return GgufFacts(
        architecture=gguf.architecture,
        info=gguf.describe(),
        chat_template=default if isinstance(default, str) else None,
        tool_template=for_tools if isinstance(for_tools, str) else None,
        parameter_count=gguf.parameter_count,
        file_type=gguf.file_type,
        tensors=tuple(TensorFacts(name=t.name, type=t.type.name, shape=t.shape) for t in gguf.tensors.values()),
    )


@functools.cache
def _fast() -> PassStrings | None:
    """The engine's library's, where there is one: models are listed without, too."""
    from native.library import library
    from native.tokenizer import pass_strings

    try:
        library()
    except NativeError:
        return None
    return pass_strings


def _purposes(config: Mapping[str, Any], gguf: GgufFacts | None) -> frozenset[str]:
    listed = config.get("capabilities")
    found = {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
    if gguf and not found & {"completion", "embedding"}:
        found.add("embedding" if f"{gguf.architecture}.pooling_type" in gguf.info else "completion")
    return frozenset(found & set(SERVED) - SPOKEN)


_FALSE = ("0", "f", "false", "no", "off")


class _NoTokenizer:
    """A template's abilities do not depend on the begin and end texts it is given."""

    bos = eos = None


def _as_go_has_it(value: Any) -> Any:
    """Go writes 1.0 as 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else ""
