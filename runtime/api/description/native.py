"""Ollama's routes and ours beside them."""

from __future__ import annotations

from runtime.api.description.forms import (
    ANY,
    COUNT,
    FLAG,
    HEX,
    LINES,
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

STATISTICS = dict.fromkeys(
    ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"),
    COUNT,
)
ENDED: dict[str, Schema] = {
    "done_reason": one_of("stop", "length", "load", "unload"),
    "limited_by": one_of("context", "num_predict"),
    "dropped_messages": COUNT,
    "logprobs": many(ref("LogProbability")),
    **STATISTICS,
}
DEBUG = has({"rendered_template": TEXT, "image_count": COUNT})
ENVELOPE: dict[str, Schema] = {"model": TEXT, "created_at": TIME, "done": FLAG}
DETAILS = has(
    {"parent_model": TEXT, "format": TEXT, "family": TEXT, "families": or_null(many(TEXT)), "parameter_size": TEXT,
     "quantization_level": TEXT},
    {"context_length": COUNT, "embedding_length": COUNT},
)  # fmt: skip
LISTED: dict[str, Schema] = {"name": TEXT, "model": TEXT, "size": COUNT, "digest": HEX, "details": ref("Details")}
SCHEMAS: dict[str, Schema] = {
    "Error": has({"error": TEXT}, {"hint": TEXT}),
    "Details": DETAILS,
    "Token": has({"token": TEXT, "logprob": NUMBER, "bytes": many(COUNT)}),
    "LogProbability": has(
        {"token": TEXT, "logprob": NUMBER, "bytes": many(COUNT)}, {"top_logprobs": many(ref("Token"))}
    ),
    "Call": has({"id": TEXT, "function": has({"index": COUNT, "name": TEXT, "arguments": ANY})}),
    "Answer": has(
        {"role": one_of("assistant"), "content": TEXT}, {"thinking": TEXT, "tool_calls": many(ref("Call"))}
    ),
    "Chatted": has(ENVELOPE, {"message": ref("Answer"), "response": TEXT, "_debug_info": DEBUG, **ENDED}),
    "Generated": has(
        ENVELOPE | {"response": TEXT}, {"thinking": TEXT, "context": many(COUNT), "_debug_info": DEBUG, **ENDED}
    ),
    "Progress": has({"status": TEXT}, {"digest": TEXT, "total": COUNT, "completed": COUNT}),
}  # fmt: skip
OPTIONS: dict[str, Schema] = dict.fromkeys(
    ("num_ctx", "num_predict", "seed", "top_k", "repeat_last_n", "num_keep", "num_batch", "num_thread"), WHOLE
)
OPTIONS |= dict.fromkeys(
    ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"), NUMBER
)
OPTIONS |= {"stop": many(TEXT)}
STRUCTURED: dict[str, Schema] = {
    "structured_outputs": wants({}, {"regex": TEXT, "grammar": TEXT, "choice": many(NAME, minItems=1), "json": ANY,
                                     "json_object": FLAG}),
}  # fmt: skip
ASKED: dict[str, Schema] = {
    "stream": FLAG,
    "options": wants({}, OPTIONS),
    "keep_alive": either(TEXT, NUMBER),
    "format": either(one_of("json"), ANY),
    "think": either(FLAG, one_of("low", "medium", "high", "max")),
    "logprobs": FLAG,
    "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
    "truncate": FLAG,
    "shift": FLAG,
    **STRUCTURED,
}
MODEL: dict[str, Schema] = {"model": NAME}
TOOL = wants({"type": one_of("function"), "function": wants({"name": NAME}, {"description": TEXT, "parameters": ANY})})
TOLD = wants(
    {"role": TEXT},
    {"content": TEXT, "thinking": TEXT, "tool_name": TEXT, "tool_call_id": TEXT,
     "tool_calls": many(wants({"function": wants({"name": TEXT, "arguments": ANY})}))},
)  # fmt: skip

TOOLS = {"tools": many(TOOL)}
CREATED: dict[str, Schema] = {
    "from": NAME, "files": ANY, "adapters": ANY, "quantize": TEXT, "template": TEXT, "system": TEXT, "parameters": ANY,
    "license": either(TEXT, many(TEXT)), "messages": many(wants({"role": TEXT, "content": TEXT})), "stream": FLAG,
}  # fmt: skip
PULLED = takes(MODEL, {"stream": FLAG, "insecure": FLAG})
PROGRESS = answers(ref("Progress"), (LINES, either(ref("Progress"), ref("Error"))))
INPUT = either(TEXT, many(TEXT))
ROUTES: dict[str, Route] = {
    "GET /": ("Says that the server runs", None, {"text/plain": {"schema": {"const": "Ollama is running"}}}),
    "GET /health": ("Is the server up", None, answers(has({"status": one_of("ok")}))),
    "GET /openapi.json": ("This description", None, answers(ANY)),
    "GET /metrics": ("Prometheus' text form", None, {"text/plain": {"schema": TEXT}}),
    "GET /api/version": ("The level of Ollama's API", None, answers(has({"version": TEXT}))),
    "GET /api/status": (
        "The cloud is off", None, answers(has({"cloud": has({"disabled": {"const": True}, "source": TEXT})}))
    ),
    "GET /api/ps": (
        "Models in memory", None,
        answers(has({"models": many(has(
            LISTED | {"expires_at": TIME, "size_vram": COUNT, "context_length": COUNT}))})),
    ),
    "GET /api/tags": (
        "Models of the store", None,
        answers(has({"models": many(has(
            LISTED | {"modified_at": TIME, "capabilities": many(TEXT)},
            {"remote_model": TEXT, "remote_host": TEXT}))})),
    ),
    "POST /api/show": (
        "What a model is", takes(MODEL, {"verbose": FLAG, "system": TEXT}),
        answers(has(
            {"modelfile": TEXT, "details": ref("Details"), "model_info": ANY, "capabilities": many(TEXT),
             "modified_at": TIME},
            {"license": TEXT, "parameters": TEXT, "template": TEXT, "system": TEXT, "renderer": TEXT, "parser": TEXT,
             "requires": TEXT, "messages": many(has({"role": TEXT, "content": TEXT})),
             "tensors": many(has({"name": TEXT, "type": TEXT, "shape": many(COUNT)}))})),
    ),
    "POST /api/generate": (
        "An answer to a prompt",
        takes(MODEL, {"prompt": TEXT, "suffix": TEXT, "system": TEXT, "template": TEXT, "raw": FLAG,
                      "context": many(COUNT), **ASKED}),
        answers(ref("Generated"), (LINES, either(ref("Generated"), ref("Error")))),
    ),
    "POST /api/chat": (
        "An answer to messages", takes(MODEL, {"messages": many(TOLD), **TOOLS, **ASKED}),
        answers(ref("Chatted"), (LINES, either(ref("Chatted"), ref("Error")))),
    ),
    "POST /api/embed": (
        "Vectors of texts", takes(MODEL, {"input": INPUT, "truncate": FLAG, "dimensions": WHOLE, "options": ANY}),
        answers(has({"model": TEXT, "embeddings": many(many(NUMBER)), "total_duration": COUNT, "load_duration": COUNT,
                     "prompt_eval_count": COUNT})),
    ),
    "POST /api/embeddings": (
        "The vector of a text", takes(MODEL, {"prompt": TEXT, "options": ANY}),
        answers(has({"embedding": many(NUMBER)})),
    ),
    "POST /api/copy": ("A second name", takes({"source": NAME, "destination": NAME}), {}),
    "DELETE /api/delete": ("Takes a name away", takes(MODEL), {}),
    "POST /api/create": ("Makes a model", takes(MODEL, CREATED), PROGRESS),
    "HEAD /api/blobs/{digest}": ("Is a blob there", None, {}),
    "POST /api/blobs/{digest}": (
        "Uploads a blob", {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}, {}
    ),
    "POST /api/pull": ("A model of the store; of a registry with --online", PULLED, PROGRESS),
    "POST /api/push": ("To a registry, with --online", PULLED, PROGRESS),
    "POST /api/tokenize": (
        "A text's tokens",
        takes(MODEL, {"content": TEXT, "add_special": FLAG, "parse_special": FLAG, "with_pieces": FLAG}),
        answers(has({"model": TEXT, "tokens": many(either(COUNT, has({"id": COUNT, "piece": TEXT})))})),
    ),
    "POST /api/detokenize": (
        "The text of tokens", takes(MODEL, {"tokens": many(COUNT)}), answers(has({"model": TEXT, "content": TEXT}))
    ),
    "POST /api/me": ("Accounts are ollama.com's", None, None),
    "POST /api/signout": ("Accounts are ollama.com's", None, None),
    "DELETE /api/user/keys/{key}": ("Accounts are ollama.com's", None, None),
    "POST /api/experimental/web_search": ("The cloud is off", None, None),
    "POST /api/experimental/web_fetch": ("The cloud is off", None, None),
    "GET /api/experimental/model-recommendations": (
        "None", None, answers(has({"recommendations": many(ANY, maxItems=0)}))
    ),
}  # fmt: skip
