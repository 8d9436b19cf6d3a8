"""Multiple choice as lm-eval asks it of /v1/completions: the prompt echoed with its log probabilities, one token more.

A choice's score is the sum over its own tokens; `is_greedy` is whether each was the likeliest. lm-eval's request has
token ids or text, several prompts at once, `max_tokens` 1, `logprobs` 1, `echo` true, a seed and temperature 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.conformance.served import MODEL, needs_model

QUESTIONS = (
    ("The capital of France is", (" Paris", " banana", " seven")),
    ("Two plus two is equal to", (" four", " Paris", " green")),
    ("The opposite of hot is", (" cold", " Monday", " apple")),
    ("Monday, Tuesday, Wednesday,", (" Thursday", " orange", " dog")),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    total: float
    greedy: bool


def ids(client: httpx.Client, text: str) -> list[int]:
    found: list[int] = client.post("/api/tokenize", json={"model": MODEL, "content": text}).json()["tokens"]
    return found


def asked(client: httpx.Client, prompt: Any) -> list[dict[str, Any]]:
    body = {
        "model": MODEL,
        "prompt": prompt,
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text[:500]
    found: list[dict[str, Any]] = answer.json()["choices"]
    assert [choice["index"] for choice in found] == list(range(len(found)))
    return found


def score(choice: dict[str, Any], start: int) -> Score:
    """lm-eval's reading: from the end of the context to the token that was made for it."""
    told = choice["logprobs"]
    tokens, tops = told["token_logprobs"][start:-1], told["top_logprobs"][start:-1]
    assert tokens and len(tokens) == len(tops)
    greedy = all(one == max(top.values()) for one, top in zip(tokens, tops, strict=True))
    return Score(total=sum(tokens), greedy=greedy)


@needs_model
@pytest.mark.parametrize(("question", "choices"), QUESTIONS)
def test_the_right_answer_is_the_likeliest(client: httpx.Client, question: str, choices: tuple[str, ...]) -> None:
    context = ids(client, question)
    prompts = [context + ids(client, choice) for choice in choices]
    scores = [score(choice, len(context)) for choice in asked(client, prompts)]
    assert max(scores, key=lambda one: one.total) is scores[0] and scores[0].total < 0


@needs_model
def test_ids_and_text_alone_and_together_score_the_same(client: httpx.Client) -> None:
    """Bit for bit: what a model thinks of an answer does not depend on who asks beside it."""
    question, choices = QUESTIONS[0]
    context = ids(client, question)
    together = [score(one, len(context)) for one in asked(client, [question + choice for choice in choices])]
    for place, choice in enumerate(choices):
        [by_text] = asked(client, question + choice)
        [by_ids] = asked(client, context + ids(client, choice))
        assert score(by_text, len(context)) == score(by_ids, len(context)) == together[place]
        assert by_text["text"].startswith(question + choice)
        assert by_text["logprobs"]["token_logprobs"][0] is None


@needs_model
def test_greedy_is_what_the_model_would_say(client: httpx.Client) -> None:
    question = QUESTIONS[0][0]
    body = {"model": MODEL, "prompt": ids(client, question), "temperature": 0, "max_tokens": 1}
    said = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    context = ids(client, question)
    scores = [
        score(one, len(context)) for one in asked(client, [context + ids(client, text) for text in (said, " zebra")])
    ]
    assert [one.greedy for one in scores] == [True, False]
