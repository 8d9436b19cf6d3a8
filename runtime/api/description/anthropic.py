"""Anthropic's routes."""

from __future__ import annotations

from runtime.api.description.forms import (
    ANY,
    COUNT,
    EVENTS,
    FLAG,
    NAME,
    NUMBER,
    TEXT,
    TIME,
    WHOLE,
    Route,
    Schema,
    answers,
    either,
    has,
    many,
    one_of,
    or_null,
    ref,
    takes,
    wants,
)
from runtime.api.description.native import MODEL
from runtime.api.description.openai import PART

CLAUDE_USAGE = has(dict.fromkeys(
    ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"), COUNT
))  # fmt: skip
STOPS = ("end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded", None)
BLOCKS: dict[str, Schema] = {
    "TextBlock": has({"type": one_of("text"), "text": TEXT}),
    "ThinkingBlock": has({"type": one_of("thinking"), "thinking": TEXT, "signature": TEXT}),
    "ToolUseBlock": has({"type": one_of("tool_use"), "id": TEXT, "name": TEXT, "input": ANY}),
}
DELTAS: dict[str, Schema] = {
    "TextBlockDelta": has({"type": one_of("text_delta"), "text": TEXT}),
    "ThinkingBlockDelta": has({"type": one_of("thinking_delta"), "thinking": TEXT}),
    "InputBlockDelta": has({"type": one_of("input_json_delta"), "partial_json": TEXT}),
}
MESSAGE_EVENTS: dict[str, Schema] = {
    "MessageStart": has({"type": one_of("message_start"), "message": ref("Message")}),
    "MessageSign": has({"type": one_of("ping", "message_stop")}),
    "BlockStart": has({"type": one_of("content_block_start"), "index": COUNT, "content_block": ref("Block")}),
    "BlockDelta": has({
        "type": one_of("content_block_delta"), "index": COUNT, "delta": either(*map(ref, DELTAS))}),
    "BlockStop": has({"type": one_of("content_block_stop"), "index": COUNT}),
    "MessageDelta": has({
        "type": one_of("message_delta"), "usage": CLAUDE_USAGE,
        "delta": has({"stop_reason": one_of(*STOPS), "stop_sequence": or_null(TEXT)})}),
}  # fmt: skip
SCHEMAS: dict[str, Schema] = {
    "AnthropicError": has(
        {"type": one_of("error"),
         "error": has({"type": TEXT, "message": TEXT}, {"details": has({"error_code": TEXT})})},
        {"request_id": or_null(TEXT)},
    ),
    "AnthropicModels": has(
        {"data": many(ref("AnthropicModel")), "has_more": FLAG, "first_id": or_null(TEXT), "last_id": or_null(TEXT)}
    ),
    "AnthropicModel": has(
        {"type": one_of("model"), "id": TEXT, "display_name": TEXT, "created_at": TIME, "lifecycle": one_of("active"),
         **dict.fromkeys(("max_input_tokens", "max_tokens"), or_null(COUNT))}
    ),
    **BLOCKS,
    "Block": either(*map(ref, BLOCKS)),
    "Message": has(
        {"id": TEXT, "type": one_of("message"), "role": one_of("assistant"), "model": TEXT,
         "content": many(ref("Block")), "stop_reason": one_of(*STOPS), "stop_sequence": or_null(TEXT),
         "usage": CLAUDE_USAGE},
        {"dropped_messages": COUNT},
    ),
    **DELTAS,
    **MESSAGE_EVENTS,
    "MessageEvent": either(*map(ref, MESSAGE_EVENTS), ref("AnthropicError")),
}  # fmt: skip
CLAUDE_TOLD = wants({"role": one_of("user", "assistant"), "content": either(TEXT, many(PART))})
COUNTED = {**MODEL, "messages": many(CLAUDE_TOLD, minItems=1)}
CLAUDE: dict[str, Schema] = {
    "system": either(TEXT, many(PART)), "temperature": NUMBER, "top_p": NUMBER, "top_k": WHOLE, "stream": FLAG,
    "stop_sequences": many(TEXT), "tools": many(wants({"name": NAME, "input_schema": ANY}, {"description": TEXT})),
}  # fmt: skip


ROUTES: dict[str, Route] = {
    "POST /v1/messages": (
        "An answer to messages", takes({**COUNTED, "max_tokens": {"type": "integer", "minimum": 1}}, CLAUDE),
        answers(ref("Message"), (EVENTS, ref("MessageEvent"))),
    ),
    "POST /v1/messages/count_tokens": (
        "How long a prompt is", takes(COUNTED, CLAUDE), answers(has({"input_tokens": COUNT}))
    ),
}  # fmt: skip
