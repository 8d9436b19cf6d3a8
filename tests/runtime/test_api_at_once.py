"""Which prompts are made at once, in the loop's own thread, and that none of those can hold the loop up."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest

from manifests.store import Store
from runtime.api.app import create_app
from runtime.api.prompts import FEW, SMALL
from runtime.text.errors import TemplateTooSlow
from runtime.text.gotemplate import GoTemplate
from runtime.text.jinja import JinjaTemplate
from runtime.text.patience import at_most
from runtime.text.prompt import Renderer
from tests.peers.scripted import Script, scripted_manager, small_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


def threads(
    store: Store, monkeypatch: pytest.MonkeyPatch, *bodies: dict[str, Any], patience: float = 60.0
) -> list[bool]:
    """For each rendering that requests with these bodies led to, one after the other: whether it was in the loop's
    thread. `patience`: seconds that it may take there."""
    found: list[bool] = []
    chat = Renderer.chat

    def noted(self: Renderer, *given: Any, **named: Any) -> Any:
        found.append(threading.get_ident() == loop)
        return chat(self, *given, **named)

    async def main() -> None:
        manager = scripted_manager(Script())
        transport = httpx.ASGITransport(app=create_app(store, manager))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for body in bodies:
                answer = await client.post("/api/chat", json={"model": "demo", "stream": False} | body)
                assert answer.status_code == 200, answer.text
        await manager.close()

    monkeypatch.setattr(Renderer, "chat", noted)
    monkeypatch.setattr("runtime.api.prompts.AT_ONCE_S", patience)
    loop = threading.get_ident()
    asyncio.run(main())
    return found


def said(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts], "options": {"num_ctx": 65536}}


def test_a_small_prompt_is_made_at_once_when_its_template_is_known(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert threads(store, monkeypatch, said("Hi"), said("Hi"), said("x" * (SMALL - 100))) == [False, True, True]


@pytest.mark.parametrize("large", [said("x" * (SMALL + 1)), said(*["Hi"] * (FEW + 1)), said("Hi") | {"format": "json"}])
def test_any_other_takes_a_thread(store: Store, monkeypatch: pytest.MonkeyPatch, large: dict[str, Any]) -> None:
    assert threads(store, monkeypatch, said("Hi"), large) == [False, False]


def test_a_template_that_takes_its_time_gets_it_in_a_thread(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads(store, monkeypatch, said("Hi"), said("Hi"), patience=-1.0) == [False, True, False]


def test_both_kinds_of_template_look_at_the_clock() -> None:
    jinja = JinjaTemplate("{% for _ in range(1000) %}x{% endfor %}")
    go = GoTemplate("{{ range .Messages }}x{{ end }}")
    many: Any = {"Messages": ["m"] * 1000}
    assert jinja.render({}) == go.execute(many) == "x" * 1000
    with at_most(-1.0):
        with pytest.raises(TemplateTooSlow):
            jinja.render({})
        with pytest.raises(TemplateTooSlow):
            go.execute(many)
    assert jinja.render({}) == "x" * 1000
