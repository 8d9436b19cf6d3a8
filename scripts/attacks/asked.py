"""Sound requests, schemas, grammars and a Modelfile for `ask` to mutate: each field that the server reads is in one."""

from __future__ import annotations

from typing import Any

from runtime.api.app import NOT_BUILT, ROUTES

TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {"a": {}}}}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12, "pattern": "^[a-z]+$"},
        "kind": {"enum": ["plumber", "poet", None, 3]},
        "scores": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 4},
        "when": {"type": ["string", "null"], "format": "date"},
        "next": {"$ref": "#/$defs/n"},
        "one": {"oneOf": [{"const": 1}, {"type": "string"}], "multipleOf": 0.5},
    },
    "required": ["name", "scores"],
    "additionalProperties": {"type": "number", "exclusiveMinimum": -5},
    "$defs": {"n": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"v": {"$ref": "#/$defs/n"}}}]}},
}
GRAMMARS = (
    ("regex", r"[a-f]{3,9}(-[0-9]{2}){1,5}|\d+\.\d*|(?i:yes|no)[^x]?"),
    ("lark", 'start: sum | "[" (start ",")* "]"\nsum: N ("+" N){0,3}\nN: /[1-9][0-9]{0,3}/\n%ignore /[ \\t]+/\n'),
    ("lark", "start: <[260]> free\nfree[lazy]: /(?s:.*)end/\n"),
)
MODELFILE = b"""# made by hand
FROM ./model.gguf
ADAPTER ./a.gguf
PARAMETER temperature 0.5
PARAMETER stop "<end>"
PARAMETER num_ctx 4096
SYSTEM \"\"\"You are "Ada".
Be brief.\"\"\"
TEMPLATE "{{ .System }} {{ .Prompt }}"
MESSAGE user Hello there
MESSAGE assistant "Good day"
LICENSE free
REQUIRES 0.14.0
"""
CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "now", "arguments": {}}}]},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
    ],
    "tools": [TOOL], "tool_choice": "auto", "format": SCHEMA, "think": False, "keep_alive": "5m", "logprobs": True,
    "top_logprobs": 2, "truncate": True, "options": {"num_ctx": 2048, "stop": ["x"], "temperature": 0.5, "seed": 1},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}, "n": 2,
    "stream_options": {"include_usage": True}, "logit_bias": {"5": 1}, "stop": ["x"], "max_tokens": 5,
    "reasoning_effort": "none", "parallel_tool_calls": True,
}  # fmt: skip
BODIES: dict[str, dict[str, Any]] = {
    "/api/chat": CHAT,
    "/v1/chat/completions": CHAT,
    "/api/generate": CHAT | {"prompt": "x", "suffix": "", "system": "s", "context": [1, 2], "raw": False, "images": []},
    "/v1/completions": {"prompt": ["x", "y"], "echo": True, "logprobs": 2, "best_of": 2, "n": 1, "max_tokens": 3},
    "/api/embed": {"input": ["a", "b"], "dimensions": 2, "truncate": True},
    "/api/embeddings": {"prompt": "a"},
    "/v1/embeddings": {"input": [[1, 2], [3]], "encoding_format": "base64", "dimensions": 2},
    "/v1/responses": {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Q"}]},
            {"type": "function_call", "call_id": "c", "name": "now", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "sunny"},
        ],
        "tools": [{"type": "function", "name": "now", "parameters": {}}], "tool_choice": "auto", "metadata": {"a": "b"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}, "reasoning": {"effort": "none"},
        "include": ["message.output_text.logprobs"], "instructions": "i", "max_output_tokens": 5, "truncation": "auto",
    },
    "/v1/messages": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Q"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "now", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "sunny"}]},
        ],
        "max_tokens": 5, "system": [{"type": "text", "text": "s"}], "tools": [{"name": "now", "input_schema": {}}],
        "tool_choice": {"type": "any"}, "thinking": {"type": "enabled", "budget_tokens": 10}, "stop_sequences": ["x"],
    },
    "/api/create": {
        "from": "demo", "template": "{{ .Prompt }}", "system": "s", "parameters": SCHEMA, "license": ["l"],
        "messages": [{"role": "user", "content": "x"}], "files": {"a.gguf": "sha256:" + "0" * 64}, "requires": "0.1.0",
    },
    "/api/tokenize": {"content": "x", "add_special": True, "parse_special": True, "with_pieces": True},
    "/api/detokenize": {"tokens": [1, 2]},
    "/api/show": {"verbose": True}, "/api/copy": {"source": "demo", "destination": "d"},
}  # fmt: skip
MODELS = (
    "demo",
    "demo",
    "demo",
    "acme/tuned:v1",
    "embedder",
    "gone",
    "",
    "a b",
    "x:cloud",
    "../../etc",
    "é" * 90,
    3,
    None,
)
POSTS = [
    (method, path)
    for methods, path, _ in ROUTES
    if path not in NOT_BUILT
    for method in methods.split()
    if method in ("POST", "DELETE")
]
DEEP: Any = []
for _ in range(140):
    DEEP = [DEEP]
ODD: tuple[Any, ...] = (
    1e308, -1e-308, 10**40, "\ud800", "a" * 70_000, "\x00", DEEP, {"": ""}, [None] * 5000, "{{ .", "5m5", "-1", -1, 0,
    [[]], {"type": "x"}, "data:image/png;base64,AAAA", "<think>", "<|im_start|>", ["a", 1, {}],
)  # fmt: skip
