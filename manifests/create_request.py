"""From a Modelfile to a request: FROM and ADAPTER name a model of the store, a file, or a folder (contract, 5.2).

Paths are relative to the Modelfile's folder, `~` is the home folder. Of a folder, its weights, JSON files, tokenizer
and chat template are taken, one level of subfolders included; a link that leads out of it is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from manifests.convert.tree import MAX_FILES, PICKLED, PICKLES
from manifests.create import CreateRequest
from manifests.create_layers import ONE_ADAPTER, Source, check_source
from manifests.errors import CreateError
from manifests.modelfile import Modelfile
from manifests.name import ModelName

_ENDS = (".safetensors", ".json", ".gguf", *PICKLES)
_BESIDE = ("tokenizer.model", "chat_template.jinja")


def request_from_modelfile(modelfile: Modelfile, folder: Path, quantize: str | None = None) -> CreateRequest:
    """Raises CreateError. Nothing is copied yet."""
    if modelfile.all("draft"):
        raise CreateError("DRAFT is not supported: there is no speculative decoding yet")
    if len(modelfile.all("adapter")) > 1:
        raise CreateError(ONE_ADAPTER)
    from_model: ModelName | None = None
    files: dict[str, Source] = {}
    for source in modelfile.all("from"):
        path = _path(folder, "FROM", source)
        if path.exists():
            for name, file in _taken(path, "FROM", source).items():
                files[source if name in files else name] = file
        elif source.lower().endswith((".gguf", ".safetensors", *PICKLES)) or source.startswith((".", "/", "~")):
            raise CreateError(f"FROM {source}: no such file", hint="paths are relative to the Modelfile's folder")
        else:
            from_model = ModelName.parse(source)
    adapters: dict[str, Source] = {}
    for source in modelfile.all("adapter"):
        adapters |= _taken(_path(folder, "ADAPTER", source), "ADAPTER", source)
    return CreateRequest(
        from_model=from_model,
        files=files,
        adapters=adapters,
        template=modelfile.last("template"),
        system=modelfile.last("system"),
        licenses=modelfile.all("license"),
        parameters=dict(modelfile.parameters),
        messages=modelfile.messages,
        renderer=modelfile.last("renderer"),
        parser=modelfile.last("parser"),
        requires=modelfile.last("requires"),
        quantize=quantize,
    )


def _path(folder: Path, command: str, source: str) -> Path:
    """The path that a FROM or ADAPTER names, if the system can hold such a path at all."""
    try:
        path = folder / Path(source).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a null byte, an unknown user after ~
        raise CreateError(f"{command} {source[:120]}: {getattr(error, 'strerror', None) or error}") from None
    return path


def _taken(path: Path, command: str, source: str) -> dict[str, Source]:
    """Relative name to path. One file of safetensors stands for the folder it lies in."""
    if path.is_dir():
        return dict(_folder(path, command, source))
    if not path.exists():
        raise CreateError(f"{command} {source}: no such file")
    if not path.is_file():
        raise CreateError(f"{command} {source}: not a plain file")
    check_source(path.name, path)
    if path.name.lower().endswith(".safetensors"):
        beside = _folder(path.parent, command, source)
        return {name: file for name, file in beside.items() if file == path or not name.endswith(".safetensors")}
    return {path.name: path}


def _folder(folder: Path, command: str, source: str) -> dict[str, Path]:
    """What of a folder makes a model: its safetensors and what describes them, or else its GGUF files."""
    try:
        found = {path.relative_to(folder).as_posix(): path for path in _wanted(folder)}
    except OSError as error:
        raise CreateError(f"{command} {source}: {error.strerror}") from None
    except CreateError as error:
        raise CreateError(f"{command} {source}: {error}", hint=error.hint) from None
    if any(name.lower().endswith(".safetensors") for name in found):
        return {name: path for name, path in found.items() if not name.lower().endswith((".gguf", *PICKLES))}
    ggufs = {name: path for name, path in found.items() if name.lower().endswith(".gguf")}
    if ggufs:
        return ggufs
    pickle = next((name for name in found if name.lower().endswith(PICKLES)), None)
    why = f"{pickle}: {PICKLED}" if pickle else "the folder holds no safetensors and no GGUF file"
    raise CreateError(f"{command} {source}: {why}")


def _wanted(folder: Path) -> Iterator[Path]:
    root = folder.resolve(strict=True)
    level = sorted(folder.iterdir())
    count = 0
    for path in (*level, *(file for sub in level if sub.is_dir() for file in sorted(sub.iterdir()))):
        if not (path.name.lower().endswith(_ENDS) or path.name in _BESIDE) or not path.is_file():
            continue
        if not path.resolve().is_relative_to(root):
            raise CreateError(f"{path.name} is a link out of the folder", hint="copy the folder with cp -rL first")
        count += 1
        if count > MAX_FILES:
            raise CreateError(f"more than {MAX_FILES} files")
        yield path
