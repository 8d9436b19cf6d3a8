"""instructor: typed answers, by schema and by a tool that must be called; also while they stream."""

import instructor
import openai
from common import ADDRESS, MODEL, check, person, refused, report
from pydantic import BaseModel, Field
from questions import GONE, PERSON, SEED


class Person(BaseModel):
    name: str = Field(max_length=12)
    age: int


asked = {"model": MODEL, "messages": [{"role": "user", "content": PERSON}], "temperature": 0, "seed": SEED}
asked |= {"max_completion_tokens": 80, "max_retries": 1}
for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS, instructor.Mode.JSON):
    raw = openai.OpenAI(base_url=f"{ADDRESS}/v1", api_key="none", max_retries=0)
    client = instructor.from_openai(raw, mode=mode)
    if mode is not instructor.Mode.JSON:  # which leaves the schema to the words of the prompt
        found = client.create(response_model=Person, **asked)
        person(found.model_dump())
        parts = list(client.create_partial(response_model=Person, **asked))
        if mode is instructor.Mode.TOOLS:  # a call comes when it is whole
            check("tools", isinstance(found, Person))
        else:
            check("streaming", len(parts) > 1)
        person(parts[-1].model_dump())  # not the same person: a stream is asked for with a schema of another title
    refused(Exception, lambda client=client: client.create(response_model=Person, **asked | {"model": GONE}))
report("instructor")
