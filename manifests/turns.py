"""How families of chat models mark whose turn it is, and which family the Jinja template of a GGUF belongs to.

A family is recognised by texts that its templates write, the first in the table whose `marks` are all there, and not by
likeness to a known template: a variant with tools or another default system text is of the same family. What follows:
stop strings, which `create` sets where nothing else does, and a template of our own in Go's dialect, for a file whose
Jinja cannot be run.

A stop string is what the template writes where a turn begins or ends. Words that prose may hold ("User:") count at the
beginning of a line only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Around = tuple[str, str]  # what a template writes before a text, and behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """`within`: the system text stands in the first turn of the user. `answer`: what asks for an answer, where that is
    not the beginning of an assistant's turn."""

    name: str
    marks: tuple[str, ...]
    stops: tuple[str, ...]
    system: Around
    user: Around
    assistant: Around
    within: bool = False
    answer: str = ""

    @property
    def template(self) -> str:
        """For a TEMPLATE: the conversation alone, without tools or thinking."""
        roles = {"system": _put(self.system), "user": _put(self.user), "assistant": _put(self.assistant)}
        head = ""
        if self.within:
            head = "{{ $system := .System }}"
            told = "{{ if $system }}" + _put(self.system, "$system") + '{{ $system = "" }}{{ end }}'
            roles = {"user": self.user[0] + told + _put(("", self.user[1])), "assistant": roles["assistant"]}
        cases = "{{ else if eq ".join(f'.Role "{role}" }}}}{text}' for role, text in roles.items())
        answer = self.answer or self.assistant[0].rstrip(" ")
        return head + "{{ range .Messages }}{{ if eq " + cases + "{{ end }}{{ end }}" + answer


def _put(around: Around, value: str = ".Content") -> str:
    return around[0] + "{{ " + value + " }}" + around[1]


def _tagged(name: str, head: str, end: str, *stops: str, marks: tuple[str, ...]) -> Turns:
    """A family that writes every role alike. `head`: what stands before a text, with {} for the role."""
    system, user, assistant = ((head.format(role), end) for role in ("system", "user", "assistant"))
    return Turns(name=name, marks=marks, stops=stops, system=system, user=user, assistant=assistant)


def _command(name: str, *marks: str, head: str = "", end: str = "") -> Turns:
    start, stop = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
    return Turns(
        name=name,
        marks=(start, *marks),
        stops=(start, stop),
        system=(f"{start}<|SYSTEM_TOKEN|>", stop),
        user=(f"{start}<|USER_TOKEN|>", stop),
        assistant=(f"{start}<|CHATBOT_TOKEN|>{head}", end + stop),
    )


FAMILIES: tuple[Turns, ...] = (
    _tagged("phi-4", "<|im_start|>{}<|im_sep|>", "<|im_end|>", "<|im_start|>", "<|im_end|>", marks=("<|im_sep|>",)),
    _tagged("chatml", "<|im_start|>{}\n", "<|im_end|>\n", "<|im_start|>", "<|im_end|>", marks=("<|im_start|>",)),
    _tagged(
        "llama3-instruct",
        "<|start_header_id|>{}<|end_header_id|>\n\n",
        "<|eot_id|>",
        *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        marks=("<|start_header_id|>",),
    ),
    _command("command-r7b", "<|START_RESPONSE|>", head="<|START_RESPONSE|>", end="<|END_RESPONSE|>"),
    _command("command-r"),
    Turns(
        name="gemma-instruct",
        marks=("<start_of_turn>",),
        stops=("<start_of_turn>", "<end_of_turn>"),
        system=("", "\n\n"),
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant=("<start_of_turn>model\n", "<end_of_turn>\n"),
        within=True,
    ),
    Turns(
        name="openchat",
        marks=("<|end_of_turn|>", "GPT4 Correct"),
        stops=("<|end_of_turn|>",),
        system=("GPT4 Correct System: ", "<|end_of_turn|>"),
        user=("GPT4 Correct User: ", "<|end_of_turn|>"),
        assistant=("GPT4 Correct Assistant: ", "<|end_of_turn|>"),
    ),
    _tagged(
        "phi-3",
        "<|{}|>\n",
        "<|end|>\n",
        *("<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
        marks=("<|end|>", "<|assistant|>"),
    ),
    _tagged(
        "zephyr",
        "<|{}|>\n",
        "</s>\n",
        *("<|system|>", "</s>", "<|user|>", "<|assistant|>"),
        marks=("<|user|>", "<|assistant|>", "eos_token"),
    ),
    _tagged(
        "alfred",
        "<start_{}>",
        "<end_message>",
        *("<start_system>", "<end_message>", "<start_user>", "<start_assistant>"),
        marks=("<start_user>", "<end_message>"),
    ),
    Turns(
        name="llama2-chat",
        marks=("[INST]", "<<SYS>>"),
        stops=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
        system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
        user=("[INST] ", " [/INST]"),
        assistant=(" ", " </s><s>"),
        within=True,
    ),
    Turns(
        name="mistral-instruct",
        marks=("[INST]",),
        stops=("[INST]", "[/INST]"),
        system=("", "\n\n"),
        user=("[INST] ", " [/INST]"),
        assistant=("", "</s>"),
        within=True,
    ),
    Turns(
        name="codellama-70b-instruct",
        marks=("<step>", "Source:"),
        stops=("<step>", "Source: user", "Source: assistant", "Destination: user"),
        system=("Source: system\n\n ", " <step> "),
        user=("Source: user\n\n ", " <step> "),
        assistant=("Source: assistant\n\n ", " <step> "),
        answer="Source: assistant\nDestination: user\n\n ",
    ),
    Turns(
        name="magicoder",
        marks=("@@ Instruction", "@@ Response"),
        stops=("@@ Instruction", "@@ Response"),
        system=("", "\n\n"),
        user=("@@ Instruction\n", "\n\n"),
        assistant=("@@ Response\n", "\n\n"),
    ),
    Turns(
        name="solar-instruct",
        marks=("### User:", "### Assistant:"),
        stops=("### System:", "### User:", "### Assistant"),
        system=("### System:\n", "\n\n"),
        user=("### User:\n", "\n\n"),
        assistant=("### Assistant:\n", "\n\n"),
    ),
    Turns(
        name="alpaca",
        marks=("### Instruction:", "### Response:"),
        stops=("### Instruction:", "### Response"),
        system=("", "\n"),
        user=("### Instruction:\n", "\n"),
        assistant=("### Response:\n", "\n"),
    ),
    Turns(
        name="starcoder2-instruct",
        marks=("### Instruction", "### Response"),
        stops=("### Instruction", "### Response", "<|endoftext|>"),
        system=("", "\n\n"),
        user=("### Instruction\n", "\n\n"),
        assistant=("### Response\n", "<|endoftext|>\n\n"),
    ),
    Turns(
        name="vicuna",
        marks=("USER:", "ASSISTANT:"),
        stops=("USER:", "ASSISTANT:"),
        system=("", " "),
        user=("USER: ", " "),
        assistant=("ASSISTANT: ", "</s>"),
    ),
    Turns(
        name="falcon-instruct",
        marks=("User:", "Falcon:"),
        stops=("\nUser:", "\nFalcon:"),
        system=("System: ", "\n"),
        user=("User: ", "\n"),
        assistant=("Falcon: ", "\n"),
    ),
    Turns(
        name="chatqa",
        marks=("User:", "Assistant:"),
        stops=("\nSystem:", "\nUser:", "\nAssistant:", "<|begin_of_text|>"),
        system=("System: ", "\n\n"),
        user=("User: ", "\n\n"),
        assistant=("Assistant: ", "\n\n"),
    ),
    Turns(
        name="granite-instruct",
        marks=("Question:", "Answer:"),
        stops=("\nSystem:", "\nQuestion:", "\nAnswer:"),
        system=("System:\n", "\n\n"),
        user=("Question:\n", "\n\n"),
        assistant=("Answer:\n", "\n\n"),
    ),
)


def recognised(jinja: object) -> Turns | None:
    """The family of a GGUF's `tokenizer.chat_template`; None where no family, or no text, is told."""
    if not isinstance(jinja, str):
        return None
    return next((one for one in FAMILIES if all(_writes(jinja, mark) for mark in one.marks)), None)


def _writes(jinja: str, mark: str) -> bool:
    """Whether a template has the mark; one that is mere words, where a text or a line of it begins."""
    if not mark[0].isupper():
        return mark in jinja
    return re.search(r"""(?:^|['"}\n]|\\n) *""" + re.escape(mark), jinja) is not None
