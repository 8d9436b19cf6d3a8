// openai: chat, responses, tools, schema, embeddings, models, abort.
import OpenAI from "openai";
import {
  ADDRESS, CALL, EMBEDDER, GONE, HELLO, MODEL, PERSON, SCHEMA, SEED, TEXTS, TOKENS, TOOL, TOOLS, check, examples,
  person, refused, report, same, vectors,
} from "./common.mjs";

const client = new OpenAI({ baseURL: `${ADDRESS}/v1`, apiKey: "none", maxRetries: 0 });
const asked = { model: MODEL, messages: HELLO, temperature: 0, seed: SEED, max_completion_tokens: TOKENS };

const ids = [];
for await (const model of client.models.list()) ids.push(model.id);
check("lists", ids.some((id) => id.replace(":latest", "") === MODEL));
const answer = await client.chat.completions.create(asked);
const parts = [];
let usage;
const options = { stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create({ ...asked, ...options })) {
  parts.push(chunk.choices[0]?.delta.content ?? "");
  usage = chunk.usage ?? usage;
}
same(parts, answer.choices[0].message.content);
check("usage", usage, answer.usage);
const response = { model: MODEL, input: HELLO, temperature: 0, max_output_tokens: TOKENS };
const deltas = [];
for await (const event of await client.responses.create({ ...response, stream: true }))
  if (event.type === "response.output_text.delta") deltas.push(event.delta);
same(deltas, (await client.responses.create(response)).output_text);
await refused(() => client.chat.completions.create({ ...asked, model: GONE }));

const history = { ...asked, messages: examples({ asText: true }), tools: TOOLS, max_completion_tokens: 60 };
for (const tool_choice of ["auto", "required", { type: "function", function: { name: TOOL } }]) {
  const { message } = (await client.chat.completions.create({ ...history, tool_choice })).choices[0];
  const calls = message.tool_calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]);
  check("tools", calls, [CALL]);
}
const final = await client.chat.completions.stream(history).finalChatCompletion();
check("tools", JSON.parse(final.choices[0].message.tool_calls[0].function.arguments), CALL[1]);
const form = { type: "json_schema", json_schema: { name: "person", schema: SCHEMA, strict: true } };
const told = [{ role: "user", content: PERSON }];
const formed = { ...asked, messages: told, response_format: form, max_completion_tokens: 60 };
person(JSON.parse((await client.chat.completions.create(formed)).choices[0].message.content));
vectors((await client.embeddings.create({ model: EMBEDDER, input: TEXTS })).data.map((one) => one.embedding));

const long = await client.chat.completions.create({ ...asked, max_completion_tokens: 1000, stream: true });
let seen = 0;
for await (const _ of long) if (++seen === 2) long.controller.abort();
check("abort", seen < 100);
report("openai");
