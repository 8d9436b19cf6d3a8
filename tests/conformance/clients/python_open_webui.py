"""Open WebUI's requests, as version 0.12.4 sends them at its start and for one question; the program itself is a
download of gigabytes. Its own HTTP client is aiohttp; what counts here are paths, fields and full names with
their tags."""

import json
import urllib.error
import urllib.request

from common import ADDRESS, EMBEDDER, MODEL, check, refused, report, same, vectors
from questions import GONE, HELLO, SEED, TEXTS, TOKENS


def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{ADDRESS}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return response.read().decode()


version = json.loads(ask("/api/version"))["version"]
check("lists", tuple(int(part) for part in version.split(".")) >= (0, 6, 4))
tags = json.loads(ask("/api/tags"))["models"]
full = next(one["model"] for one in tags if one["name"].startswith(MODEL))
check("lists", full, f"{MODEL}:latest")
check("lists", {"name", "model", "digest", "size", "details", "modified_at"} <= set(tags[0]))
check("lists", isinstance(json.loads(ask("/api/ps"))["models"], list))
check("lists", full in {one["id"] for one in json.loads(ask("/v1/models"))["data"]})
check("lists", "completion" in json.loads(ask("/api/show", {"model": full}))["capabilities"])
options = {"temperature": 0, "seed": SEED, "num_predict": TOKENS}
asked = {"model": full, "messages": HELLO, "options": options}
lines = [json.loads(line) for line in ask("/api/chat", asked | {"stream": True}).splitlines()]
whole = json.loads(ask("/api/chat", asked | {"stream": False}))["message"]["content"]
same([line["message"]["content"] for line in lines], whole)
check("usage", lines[-1]["done"] and lines[-1]["eval_count"] > 0)
refused(urllib.error.HTTPError, lambda: ask("/api/chat", asked | {"model": f"{GONE}:latest"}), "404")
vectors(json.loads(ask("/api/embed", {"model": f"{EMBEDDER}:latest", "input": TEXTS, "truncate": True}))["embeddings"])
report("Open WebUI's requests", version="0.12.4")
