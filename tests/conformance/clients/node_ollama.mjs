// ollama: chat, generate, tools, format, embed, lists, abort.
import { Ollama } from "ollama";
import {
  ADDRESS, CALL, EMBEDDER, GONE, HELLO, MODEL, PERSON, SCHEMA, SEED, TEXTS, TOKENS, TOOLS, check, examples, person,
  refused, report, same, vectors,
} from "./common.mjs";

const client = new Ollama({ host: ADDRESS });
const options = { temperature: 0, seed: SEED, num_predict: TOKENS };
const text = async (stream, of) => {
  const parts = [];
  for await (const part of stream) parts.push(of(part));
  return parts;
};

const names = (await client.list()).models.map((model) => model.name.replace(":latest", ""));
check("lists", names.includes(MODEL) && (await client.show({ model: MODEL })).capabilities.includes("tools"));
const asked = { model: MODEL, messages: HELLO, options };
const whole = (await client.chat(asked)).message.content;
same(await text(await client.chat({ ...asked, stream: true }), (part) => part.message.content), whole);
const prompt = { model: MODEL, prompt: "Say hello.", options };
const generated = (await client.generate(prompt)).response;
same(await text(await client.generate({ ...prompt, stream: true }), (part) => part.response), generated);
await refused(() => client.chat({ model: GONE, messages: HELLO }));

const history = { model: MODEL, messages: examples({ asText: false }), tools: TOOLS, options: { temperature: 0 } };
const calls = [(await client.chat(history)).message.tool_calls ?? []];
calls.push((await text(await client.chat({ ...history, stream: true }), (part) => part.message.tool_calls ?? [])).flat());
for (const found of calls) check("tools", found.map((call) => [call.function.name, call.function.arguments]), [CALL]);
const formed = await client.generate({ model: MODEL, prompt: PERSON, format: SCHEMA, options: { temperature: 0 } });
person(JSON.parse(formed.response));
vectors((await client.embed({ model: EMBEDDER, input: TEXTS })).embeddings);

const long = await client.chat({ ...asked, options: { ...options, num_predict: 1000 }, stream: true });
await refused(async () => {
  for await (const _ of long) long.abort();
}, "abort");
report("ollama");
