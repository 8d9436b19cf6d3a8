"""The weights of a model to make: files become layers; trees are converted, plain floats quantized where asked.

A GGUF that is neither quantized nor converted keeps its bytes: the stored digest is the file's own. What is written on
the way and no model names in the end is removed again.
Refuses files of several kinds at once, weights that are neither GGUF nor safetensors, parts of a split GGUF, more than
one model, more than one adapter, an adapter that does not fit its base.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from manifests.convert.tree import PICKLED, PICKLES
from manifests.digest import Digest
from manifests.errors import CreateError, DigestError, GgufError, NotFound, StoreError
from manifests.gguf import Gguf
from manifests.lora import pairs
from manifests.manifest import OLLAMA_PREFIX, Descriptor
from manifests.quantize import recipe
from manifests.quantize.run import plain_name, quantize
from manifests.store import Progress, Store

Status = Callable[[str], None]
Bar = Callable[[str, int], contextlib.AbstractContextManager[Progress]]  # title, bytes in all
Source = Digest | Path  # a blob of the store, or a file outside it

CONVERT = "take the GGUF of a model, or the folder with its config.json and safetensors"
ONE_ADAPTER = "only one adapter is currently supported"
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


def no_bar(title: str, total: int) -> contextlib.AbstractContextManager[Progress]:
    return contextlib.nullcontext(lambda step: None)


@dataclass(slots=True, kw_only=True)
class Workshop:
    """One making. `written`: blobs that this making added; `sources`: the digest of every file it read, by name."""

    store: Store
    status: Status
    bar: Bar
    written: list[Digest] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)

    def model_layers(self, files: Mapping[str, Source], quantization: str | None) -> list[Descriptor]:
        """The layers of `files`: one model, and GGUFs that stand beside it. Raises CreateError, StoreError."""
        if self._are_gguf(files):
            return [self._gguf_layer(name, source, quantization) for name, source in files.items()]
        digest = self._convert(files)
        return [self.quantized(digest, quantization) if quantization else self._made(digest, "model")]

    def adapter_layer(self, files: Mapping[str, Source], base: Digest) -> Descriptor:
        """The layer of one adapter, which fits the GGUF `base`."""
        model = open_gguf(self.store.blob_path(base))
        if self._are_gguf(files):
            if len(files) > 1:
                raise CreateError(ONE_ADAPTER)
            ((name, source),) = files.items()
            self.status("parsing GGUF")
            _require_whole(name)
            fits(open_gguf(self._path(source)), model)
            return self._taken(name, source, "adapter")
        from manifests.convert.adapter import convert_adapter

        self.status("converting adapter")
        paths = {name: self._path(source) for name, source in files.items()}
        with self.bar("converting adapter", _bytes(paths)) as progress:
            digest = convert_adapter(self.store, paths, model, progress)
        self._note(files)
        fits(open_gguf(self.store.blob_path(digest)), model)
        return self._made(digest, "adapter")

    def quantized(self, digest: Digest, quantization: str) -> Descriptor:
        """The model layer of a blob in another number format; the blob itself where it has that format already."""
        return self._quantize(self.store.blob_path(digest), quantization) or self._layer(digest, "model")

    # -- one file

    def _gguf_layer(self, name: str, source: Source, quantization: str | None) -> Descriptor:
        _require_whole(name)
        self.status("parsing GGUF")
        gguf = open_gguf(self._path(source))
        kind = "adapter" if gguf.metadata.get("general.type") == "adapter" else "model"
        kind = "projector" if gguf.architecture == "clip" else kind
        made = self._quantize(self._path(source), quantization) if quantization and kind == "model" else None
        if made is None:
            return self._taken(name, source, kind)
        self._note({name: source})
        return made

    def _quantize(self, path: Path, quantization: str) -> Descriptor | None:
        """None where every tensor has its format already."""
        gguf = open_gguf(path)
        found = plain_name(gguf)
        chosen = recipe.recipe(quantization, gguf.tensors)
        if all(chosen.choose(info) is info.type for info in gguf.tensors.values()):
            return None
        line = f"quantizing {found} model to {quantization}"
        self.status(line)
        with self.bar(line, sum(chosen.size(info) for info in gguf.tensors.values())) as progress:
            digest = quantize(self.store, Gguf.open(path), quantization, progress)
        return self._made(digest, "model")

    def _convert(self, files: Mapping[str, Source]) -> Digest:
        from manifests.convert.model import convert_model

        self.status("converting model")
        paths = {name: self._path(source) for name, source in files.items()}
        with self.bar("converting model", _bytes(paths)) as progress:
            digest = convert_model(self.store, paths, progress)
        self.written.append(digest)
        self._note(files)
        self.status("verifying conversion")
        open_gguf(self.store.blob_path(digest))
        return digest

    def _taken(self, name: str, source: Source, kind: str) -> Descriptor:
        """A file as it is."""
        if isinstance(source, Path):
            digest = self._copy(source)
            self.sources[name] = str(digest)
            return self._layer(digest, kind)
        self.sources[name] = str(source)
        self.status(f"using existing layer {source}")
        return self._layer(source, kind)

    def _copy(self, path: Path) -> Digest:
        with contextlib.suppress(DigestError):
            digest = Digest.parse(path.name.replace("-", ":", 1))
            if path.resolve() == self.store.blob_path(digest).resolve():  # as `show --modelfile` names it
                self.store.verify_blob(digest)
                self.status(f"using existing layer {digest}")
                return digest
        before = {entry.name for entry in self.store.blobs.iterdir()} if self.store.blobs.is_dir() else set()
        self.status(f"copying {path.name}")
        try:
            size = path.stat().st_size
        except OSError as error:
            raise CreateError(error.strerror or type(error).__name__, path=path) from None
        with self.bar(path.name, size) as progress:
            digest = self.store.put_file(path, progress)
        if digest.file_name not in before:
            self.written.append(digest)
        return digest

    def _made(self, digest: Digest, kind: str) -> Descriptor:
        """The layer of a blob that this making wrote."""
        self.written.append(digest)
        self.status(f"creating new layer {digest}")
        open_gguf(self.store.blob_path(digest))
        return self._layer(digest, kind)

    def _layer(self, digest: Digest, kind: str) -> Descriptor:
        size = self.store.blob_path(digest).stat().st_size
        return Descriptor(media_type=OLLAMA_PREFIX + kind, digest=digest, size=size)

    def _path(self, source: Source) -> Path:
        if isinstance(source, Path):
            return source
        path = self.store.blob_path(source)
        if not path.is_file():
            raise NotFound(f"blob {source} not found", hint="upload it first: POST /api/blobs/<digest>")
        return path

    def _are_gguf(self, files: Mapping[str, Source]) -> bool:
        """False: a tree to convert. Raises CreateError where the files are neither."""
        if not files:
            raise CreateError("no files provided to convert")
        found = {name: _magic(self._path(source)) for name, source in files.items()}
        ggufs = [name for name, magic in found.items() if magic == b"GGUF"]
        if len(ggufs) == len(files):
            return True
        safe = [name for name in files if name.lower().endswith(".safetensors")]
        if ggufs and safe:
            raise CreateError(f"{ggufs[0]} is a GGUF and {safe[0]} is not: give the files of one kind")
        if ggufs or not (safe or len(files) > 1 or _is_pickle(next(iter(files)))):
            raise CreateError("supplied file was not in GGUF format", hint=CONVERT)
        return False

    def _note(self, files: Mapping[str, Source]) -> None:
        for name, source in files.items():
            if isinstance(source, Path):
                with source.open("rb") as stream:
                    source = Digest.of_stream(stream)
            self.sources[name] = str(source)


def check_source(name: str, path: Path) -> None:
    """What would be refused later is refused before anything is copied: parts of a split GGUF, other kinds of file."""
    _require_whole(name)
    if _magic(path) != b"GGUF" and not name.lower().endswith(".safetensors"):
        if _is_pickle(name):
            raise CreateError(f"{name}: {PICKLED}", hint=CONVERT)
        raise CreateError("supplied file was not in GGUF format", hint=CONVERT)


def fits(adapter: Gguf, base: Gguf) -> None:
    try:
        pairs(adapter, base)
    except GgufError as error:
        raise CreateError(f"ADAPTER: {error}", hint=error.hint) from None


def open_gguf(path: Path) -> Gguf:
    """Raises CreateError."""
    if _magic(path) != b"GGUF":
        raise CreateError("supplied file was not in GGUF format", hint=CONVERT)
    try:
        return Gguf.head(path)
    except GgufError as error:
        raise CreateError(f"the GGUF is refused: {error}", hint=error.hint) from None


def _require_whole(name: str) -> None:
    if _SPLIT.search(name):
        raise CreateError(f"{name}: one part of a split GGUF", hint="merge the parts first (llama-gguf-split --merge)")


def _is_pickle(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICKLES


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(4)
    except OSError as error:
        raise CreateError(error.strerror or type(error).__name__, path=path) from None


def _bytes(paths: Mapping[str, Path]) -> int:
    return sum(path.stat().st_size for name, path in paths.items() if name.lower().endswith(".safetensors"))


@contextlib.contextmanager
def workshop(store: Store, status: Status, bar: Bar) -> Iterator[Workshop]:
    """At the end, whatever happened, blobs that were written and that no model names are removed."""
    shop = Workshop(store=store, status=status, bar=bar)
    try:
        yield shop
    finally:
        with contextlib.suppress(StoreError):
            store.drop_blobs(shop.written)
