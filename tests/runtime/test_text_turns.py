"""What a recognised family gives at run time: a template where the file's Jinja cannot be run, stops that stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manifests.create import CreateRequest, create
from manifests.name import ModelName
from manifests.store import Store
from manifests.turns import FAMILIES, recognised
from runtime.answer import Answer, GenerateRequest
from runtime.card import CardBox
from runtime.describe import describe
from runtime.engine.link import Token
from runtime.text.errors import TemplateSyntaxError
from runtime.text.message import Message
from runtime.text.prompt import Renderer
from runtime.text.tokenizer import Tokenizer
from tests.peers.model_maker import CHATML, make_model
from tests.peers.turns import SAMPLES
from tests.peers.vocabularies import byte_level, scored

WORDS = Tokenizer.from_gguf(scored({"\u2581": -1.0}))  # begins with <s>, ends with </s>
TALK = [Message(role=role, content=text) for role, text in (("system", "S."), ("user", "Q?"), ("assistant", "A."))]
TALK.append(Message(role="user", content="More?"))
BROKEN = "{% for %}"  # ends no sample: the whole does not parse


def choose(**given: Any) -> Renderer:
    return Renderer.choose(WORDS, **{"template": None, "jinja": None} | given)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda one: one.family)
def test_the_stand_in_writes_what_the_familys_jinja_writes(sample: Any) -> None:
    talk = TALK if sample.system else TALK[1:]
    own, other = (choose(jinja=source).render_chat(talk) for source in (sample.jinja, sample.jinja + BROKEN))
    assert (own.removeprefix("<s>") == other) == (not sample.differs)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_a_stand_in_has_every_text_of_a_conversation_once_and_asks_for_an_answer(family: Any) -> None:
    text = choose(template=family.template).render_chat(TALK)
    assert [text.count(message.content) for message in TALK] == [1, 1, 1, 1]
    assert text.rindex("More?") > text.index("A.") > text.index("Q?") > text.index("S.")
    one = choose(template=family.template).render_generate("Q?", system="S.")
    assert one.count("Q?") == one.count("S.") == 1 and one.endswith(text[text.rindex("More?") + 5 :])


def test_what_counts_where_the_files_jinja_cannot_be_run() -> None:
    """A template of the model's own first, whatever is preferred; then the family's; of no family, the error."""
    broken = CHATML + BROKEN
    assert choose(jinja=broken).kind == "go" and choose(jinja=CHATML).kind == "jinja"
    for prefer in (None, True, False):
        assert choose(jinja=broken, template="<{{ .Prompt }}>", prefer_go=prefer).render_chat(TALK[1:2]) == "<Q?>"
    assert choose(jinja=CHATML + "{{ messages | from_nowhere }}").kind == "go"  # it parses, and wants what is not
    with pytest.raises(TemplateSyntaxError):
        choose(jinja=BROKEN)
    with pytest.raises(TemplateSyntaxError):  # the default one is sound: nothing stands in for the other
        choose(jinja=CHATML, jinja_tools=broken)


def test_show_tells_the_template_that_speaks_and_the_stops(tmp_path: Path) -> None:
    store, name = Store(tmp_path / "store"), ModelName.parse("shown")
    for jinja in (CHATML, CHATML + BROKEN):
        model = make_model(tmp_path / "m.gguf", metadata={"tokenizer.chat_template": jinja})
        create(store, name, CreateRequest(files={"m.gguf": model}))
        family = recognised(jinja)
        assert family is not None
        told = describe(CardBox(store), "shown")
        assert told["template"] == (CHATML if jinja == CHATML else family.template)
        assert [line.split()[0] for line in told["parameters"].splitlines()] == ["stop", "stop"]
        assert all(f"PARAMETER stop {stop}\n" in told["modelfile"] for stop in family.stops)
        assert "TEMPLATE" not in told["modelfile"]  # the same file makes the same layers


BYTES = Tokenizer.from_gguf(byte_level())
START, END = "<|im_start|>", "<|im_end|>"  # control tokens; the second one ends answers


def ends_at(texts: list[str], *stops: str, ignore_eos: bool = False) -> tuple[str, str | None]:
    """The text, and the stop string that ended it, of an answer of these control tokens and letters."""
    answer = Answer(GenerateRequest(prompt=(1,), stop=stops, ignore_eos=ignore_eos), BYTES, seed=0, started=0)
    ids = [BYTES.control(text) if len(text) > 1 else BYTES.encode(text, special=False)[-1] for text in texts]
    tokens = [Token(id=index, logprob=0, top=(), cached=0, queue_ns=0, age_ns=1) for index in ids if index is not None]
    told = [answer.take([token]) for token in tokens if answer.finish is None]
    return "".join(delta.text for delta in told if delta), answer.finish.stop if answer.finish else None


def test_a_stop_string_that_is_a_control_token_stops_at_it() -> None:
    """Such tokens are no text otherwise, so that a stop of the Modelfile would never be met."""
    said = ["a", START, "b"]
    assert ends_at(said) == ("ab", None)
    assert ends_at(said, START) == ("a", START)
    assert ends_at(said, START + "x") == ("ab", None)
    assert ends_at(["a", *START, "b"], START) == ("a", START)  # spelled out it stops too


def test_who_ignores_the_end_is_not_stopped_by_its_name() -> None:
    said = ["a", END, "b"]
    assert ends_at(said, END, ignore_eos=True) == ("ab", None)
