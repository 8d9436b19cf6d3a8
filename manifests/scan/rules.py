"""The rules of the content gate: an id, a severity, a sentence. docs/formats/gate.md shows the same table.

A hit is (rule, text); a finding is a hit with its severity, its place, and what this site does about it: `refuse` for
an error and `warn` for a warning or a note, unless policy.toml says otherwise. An ignored finding is still recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

CONFIG = "config"  # a blob's role
FILE = "\0file"  # the role of a file of a tree, known by its name alone; no manifest can spell it
Hit = tuple[str, str]  # rule, what was found
ACTIONS = ("refuse", "warn", "ignore")
MAX_TEXT = 500  # characters of a finding's text

RULES: dict[str, tuple[str, str]] = {
    "model.weights": ("error", "a model without a weights layer"),
    "gguf.structure": ("error", "not a sound GGUF file (bounds, types, duplicates, overlaps, gaps, trailing bytes)"),
    "gguf.architecture": ("error", "a GGUF names no architecture"),
    "gguf.unknown-architecture": ("note", "an architecture that this version's runtime does not run"),
    "gguf.blocks": ("error", "block_count and the blk.N tensors disagree"),
    "gguf.widths": ("error", "a tensor's shape and the metadata's widths disagree"),
    "gguf.vocabulary": ("error", "the vocabulary and the embedding's rows disagree"),
    "gguf.special-token": ("error", "the id of a special token is no number, or beyond the vocabulary"),
    "gguf.arrays": ("error", "the tokenizer's arrays differ in length, or hold elements of another type"),
    "gguf.file-type": ("warning", "no tensor has the number format that general.file_type names"),
    "gguf.split": ("error", "one part of a model split over files, or a part that contradicts itself"),
    "template.syntax": ("error", "a template that does not parse"),
    "template.limits": ("error", "a template that is too large, too deep, or asks for huge loops or texts"),
    "template.private": ("error", "a name or attribute that begins with an underscore, or leads to Python's frames"),
    "template.gadget": ("error", "a name that leads out of a template: cycler, joiner, lipsum, self, config, request"),
    "template.attribute": ("error", "attributes by computed name: attr, map(attribute=…) and their kin"),
    "template.include": ("error", "another template is asked for: import, include, extends"),
    "template.assembled": ("error", "a forbidden name is assembled from harmless pieces"),
    "template.computed": ("warning", "a key or a format is computed from texts"),
    "template.format": ("error", "a format string that reaches into its arguments, or makes characters from numbers"),
    "template.decode": ("error", "texts are decoded or made from character codes"),
    "template.unknown": ("warning", "a filter, test or function that chat templates do not have"),
    "template.recursion": ("note", "a macro that calls itself"),
    "template.hidden-branch": ("error", "text that is put in only for certain contents or dates"),
    "template.content-gate": ("warning", "the template behaves otherwise for certain contents or dates"),
    "text.invisible": ("error", "invisible, bidirectional or tag characters, or controls"),
    "text.markup": ("error", "scripts or active HTML"),
    "text.link": ("warning", "a template puts an address into the conversation"),
    "layer.unknown": ("error", "a layer type that Ollama does not have"),
    "layer.unexamined": ("note", "a layer that this version does not look into"),
    "layer.json": ("error", "params, messages or json layers are not JSON of the right kind"),
    "layer.text": ("error", "a text layer is not UTF-8 or is too large"),
    "params.unknown": ("note", "a parameter that this version does not know"),
    "params.value": ("note", "a parameter of another type, or beyond its range"),
    "config.json": ("error", "the config is not a JSON object"),
    "config.remote": ("error", "the config sends prompts to another host (remote_host, remote_model)"),
    "file.pickle": ("error", "a pickle, or a file that is named like one: reading it runs code"),
    "file.script": ("error", "a script or a source file"),
    "file.program": ("error", "machine code (ELF, PE, Mach-O, WebAssembly)"),
    "file.archive": ("error", "an archive where none belongs"),
    "file.auto-map": ("warning", "a config that asks for code of its own (auto_map)"),
    "safetensors.header": ("error", "a safetensors header that is not sound, or does not tile its file"),
    "licence.mismatch": ("warning", "the licence's text is another one than the model declares"),
    "licence.unrecognized": ("note", "a licence text that this version does not know"),
    "licence.refused": ("error", "policy.toml does not take this licence"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`place` such as `layer model sha256:…`; `action` is what this site does: refuse, warn or ignore."""

    rule: str
    severity: str
    place: str
    text: str
    action: str

    @classmethod
    def of(cls, hit: Hit, place: str, actions: Mapping[str, str]) -> Finding:
        rule, text = hit
        severity = RULES[rule][0]
        action = actions.get(rule) or ("refuse" if severity == "error" else "warn")
        return cls(rule=rule, severity=severity, place=_shown(place), text=_shown(text), action=action)

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def _shown(text: str) -> str:
    """Without what a terminal would obey, or could not print."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:MAX_TEXT])[:MAX_TEXT]
