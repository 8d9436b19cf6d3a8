"""OpenAI's routes."""

from __future__ import annotations

from runtime.api.description.forms import (
    ANY,
    COUNT,
    EVENTS,
    FLAG,
    NAME,
    NUMBER,
    TEXT,
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
from runtime.api.description.native import ASKED, INPUT, MODEL, STRUCTURED, TOOLS

USAGE = has(
    {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT,
     "prompt_tokens_details": has({"cached_tokens": COUNT})},
)  # fmt: skip
FRAME: dict[str, Schema] = {"id": TEXT, "created": COUNT, "model": TEXT, "system_fingerprint": TEXT}
FUNCTION = has({"name": TEXT, "arguments": TEXT})
SAID: dict[str, Schema] = {"reasoning": TEXT, "reasoning_content": TEXT, "function_call": ref("OpenAIFunction")}
SCORED = or_null(has({"content": many(ref("LogProbability")), "refusal": {"type": "null"}}))
CHAT_REASONS = ("stop", "length", "tool_calls", "function_call")
RESPONSE_ITEMS: dict[str, Schema] = {
    "ReasoningItem": has({
        "id": TEXT, "type": one_of("reasoning"),
        "summary": many(has({"type": one_of("summary_text"), "text": TEXT}))}),
    "MessageItem": has({
        "id": TEXT, "type": one_of("message"), "role": one_of("assistant"), "content": many(ref("OutputText")),
        "status": one_of("in_progress", "completed", "incomplete")}),
    "FunctionCallItem": has({
        "id": TEXT, "type": one_of("function_call"), "call_id": TEXT, "name": TEXT, "arguments": TEXT,
        "status": one_of("in_progress", "completed")}),
}  # fmt: skip
RESPONSE_USAGE = has({
    "input_tokens": COUNT, "input_tokens_details": has({"cached_tokens": COUNT, "cache_write_tokens": COUNT}),
    "output_tokens": COUNT, "output_tokens_details": has({"reasoning_tokens": COUNT}), "total_tokens": COUNT,
})  # fmt: skip
RESPONSE = has(
    {
        "id": TEXT, "object": one_of("response"), "created_at": COUNT, "model": TEXT,
        "output": many(ref("ResponseItem")),
        "status": one_of("in_progress", "completed", "incomplete", "failed"), "background": FLAG, "store": FLAG,
        "error": or_null(has({"code": TEXT, "message": TEXT})), "instructions": or_null(TEXT),
        "incomplete_details": or_null(has({"reason": TEXT})), "max_output_tokens": or_null(COUNT),
        "max_tool_calls": {"type": "null"}, "parallel_tool_calls": FLAG, "previous_response_id": {"type": "null"},
        "reasoning": has({"effort": or_null(TEXT), "summary": or_null(TEXT)}), "service_tier": TEXT,
        "temperature": NUMBER, "text": ANY, "tool_choice": either(TEXT, ANY), "tools": many(ANY), "top_logprobs": COUNT,
        "top_p": NUMBER, "truncation": one_of("auto", "disabled"), "metadata": ANY,
    },
    {"dropped_messages": COUNT, "user": TEXT, "usage": RESPONSE_USAGE},
)  # fmt: skip
SCHEMAS: dict[str, Schema] = {
    "OpenAIError": has({"error": has({"message": TEXT, "type": TEXT, "param": or_null(TEXT), "code": or_null(TEXT)})}),
    "OpenAIModel": has({"id": TEXT, "object": one_of("model"), "created": COUNT, "owned_by": TEXT}),
    "OpenAIFunction": FUNCTION,
    "ChatCompletion": has(
        FRAME | {
            "object": one_of("chat.completion"),
            "usage": USAGE,
            "choices": many(has({
                "index": COUNT, "logprobs": SCORED, "finish_reason": one_of(*CHAT_REASONS),
                "message": has(
                    {"role": one_of("assistant"), "content": or_null(TEXT), "refusal": {"type": "null"}},
                    SAID | {"tool_calls": many(has({
                        "id": TEXT, "type": one_of("function"), "function": ref("OpenAIFunction")}))}),
            })),
        },
        {"dropped_messages": COUNT},
    ),
    "ChatChunk": has(
        FRAME | {
            "object": one_of("chat.completion.chunk"),
            "choices": many(has({
                "index": COUNT, "logprobs": SCORED, "finish_reason": one_of(*CHAT_REASONS, None),
                "delta": has({}, SAID | {
                    "role": one_of("assistant"), "content": TEXT,
                    "tool_calls": many(has({"index": COUNT, "id": TEXT, "type": one_of("function"),
                                            "function": ref("OpenAIFunction")}))}),
            })),
        },
        {"usage": or_null(USAGE), "dropped_messages": COUNT},
    ),
    "Completion": has(
        FRAME | {
            "object": one_of("text_completion"),
            "choices": many(has({
                "index": COUNT, "text": TEXT, "finish_reason": one_of("stop", "length", None),
                "logprobs": or_null(has({
                    "tokens": many(TEXT), "token_logprobs": many(or_null(NUMBER)), "text_offset": many(COUNT),
                    "top_logprobs": or_null(many(or_null({"type": "object", "additionalProperties": NUMBER})))})),
            })),
        },
        {"usage": or_null(USAGE)},
    ),
    "Embeddings": has({
        "object": one_of("list"), "model": TEXT, "usage": has({"prompt_tokens": COUNT, "total_tokens": COUNT}),
        "data": many(has({"object": one_of("embedding"), "index": COUNT, "embedding": either(many(NUMBER), TEXT)})),
    }),
    "OutputText": has({"type": one_of("output_text"), "text": TEXT, "annotations": many(ANY),
                       "logprobs": many(ref("LogProbability"))}),
    **RESPONSE_ITEMS,
    "ResponseItem": either(*map(ref, RESPONSE_ITEMS)),
    "ResponseObject": RESPONSE,  # generated clients have a Response of their own
    "ResponseEvent": wants({"type": {"type": "string", "pattern": "^response\\."}, "sequence_number": COUNT},
                           {"response": ref("ResponseObject"), "item": ref("ResponseItem")}),
}  # fmt: skip
LIMITS: dict[str, Schema] = {
    "max_tokens": WHOLE, "temperature": NUMBER, "top_p": NUMBER, "seed": WHOLE, "stream": FLAG, "n": WHOLE,
    "frequency_penalty": NUMBER, "presence_penalty": NUMBER, "stop": either(TEXT, many(TEXT)),
    "logit_bias": {"type": "object", "additionalProperties": NUMBER},
    "stream_options": wants({}, {"include_usage": FLAG}),
    "response_format": wants({"type": one_of("text", "json_object", "json_schema")}, {"json_schema": ANY}),
    **STRUCTURED,
}  # fmt: skip
CHOICE = either(
    one_of("auto", "none", "required"), wants({"type": one_of("function"), "function": wants({"name": TEXT})})
)
PART = wants({"type": one_of("text"), "text": TEXT})
OPENAI_TOLD = wants(
    {"role": one_of("system", "developer", "user", "assistant", "tool"), "content": either(TEXT, many(PART))},
    {"tool_call_id": TEXT, "name": TEXT},
)


ROUTES: dict[str, Route] = {
    "GET /v1/models": (
        "Models of the store", None, answers(has({"object": one_of("list"), "data": many(ref("OpenAIModel"))}))
    ),
    "GET /v1/models/{model}": ("One model", None, answers(ref("OpenAIModel"))),
    "POST /v1/chat/completions": (
        "Answers to messages",
        takes({**MODEL, "messages": many(OPENAI_TOLD, minItems=1)},
              {**LIMITS, **TOOLS, "tool_choice": CHOICE, "parallel_tool_calls": FLAG, "max_completion_tokens": WHOLE,
               "logprobs": FLAG, "top_logprobs": ASKED["top_logprobs"]}),
        answers(ref("ChatCompletion"), (EVENTS, either(ref("ChatChunk"), ref("OpenAIError")))),
    ),
    "POST /v1/completions": (
        "Answers to prompts",
        takes({**MODEL, "prompt": either(NAME, many(NAME, minItems=1, maxItems=3), many(COUNT, minItems=1))},
              {**LIMITS, "suffix": TEXT, "echo": FLAG, "best_of": WHOLE, "logprobs": ASKED["top_logprobs"]}),
        answers(ref("Completion"), (EVENTS, either(ref("Completion"), ref("OpenAIError")))),
    ),
    "POST /v1/embeddings": (
        "Vectors of texts",
        takes({**MODEL, "input": INPUT}, {"encoding_format": one_of("float", "base64"), "dimensions": WHOLE}),
        answers(ref("Embeddings")),
    ),
    "POST /v1/responses": (
        "An answer as items",
        takes({**MODEL, "input": either(NAME, many(OPENAI_TOLD, minItems=1))},
              {"instructions": TEXT, "stream": FLAG, "max_output_tokens": WHOLE, "temperature": NUMBER,
               "top_p": NUMBER}),
        answers(ref("ResponseObject"), (EVENTS, ref("ResponseEvent"))),
    ),
}  # fmt: skip
