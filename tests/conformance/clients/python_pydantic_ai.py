"""pydantic-ai: an agent's text and stream, a tool that is really run, native structured output."""

import asyncio

from common import ADDRESS, MODEL, check, person, refused, report, same
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.ollama import OllamaProvider
from questions import CITIES, GONE, PERSON, QUESTION, SEED, TOKENS, TOOL

provider = OllamaProvider(base_url=f"{ADDRESS}/v1")
settings = {"temperature": 0, "seed": SEED, "max_tokens": TOKENS}
model = OpenAIChatModel(MODEL, provider=provider)
agent = Agent(model, model_settings=settings)


class Person(BaseModel):
    name: str = Field(max_length=12)
    age: int


async def main() -> None:
    whole = (await agent.run("Say hello to the sailors.")).output
    async with agent.run_stream("Say hello to the sailors.") as stream:
        same([part async for part in stream.stream_text(delta=True, debounce_by=None)], whole)
    formed = Agent(model, output_type=NativeOutput(Person), model_settings=settings | {"max_tokens": 60})
    person((await formed.run(PERSON)).output.model_dump())
    await tools()


async def tools() -> None:
    cities: list[str] = []
    calling = Agent(model, model_settings=settings | {"max_tokens": 60})

    @calling.tool_plain(name=TOOL)
    def get_weather(city: str) -> str:
        """The weather of a city"""
        cities.append(city)
        return "sunny"

    history: list[ModelRequest | ModelResponse] = []
    for city in CITIES:
        call = {"tool_name": TOOL, "tool_call_id": f"call_{city}"}
        history += [
            ModelRequest(parts=[UserPromptPart(content=f"What is the weather in {city}?")]),
            ModelResponse(parts=[ToolCallPart(args={"city": city}, **call)]),
            ModelRequest(parts=[ToolReturnPart(content="sunny", **call)]),
            ModelResponse(parts=[TextPart(content=f"It is sunny in {city}.")]),
        ]
    answer = (await calling.run(QUESTION, message_history=history)).output
    check("tools", (cities, "Oslo" in answer), (["Oslo"], True))


asyncio.run(main())
refused(ModelHTTPError, lambda: Agent(OpenAIChatModel(GONE, provider=provider)).run_sync("Hi"))
report("pydantic-ai-slim")
