// @langchain/ollama: a chat model, tools bound to it, schema, embeddings.
import { AIMessage, HumanMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOllama, OllamaEmbeddings } from "@langchain/ollama";
import {
  ADDRESS, CALL, CITIES, EMBEDDER, GONE, GREETING, MODEL, PERSON, QUESTION, SCHEMA, SEED, TEXTS, TOKENS, TOOL, TOOLS,
  check, person, refused, report, same, vectors,
} from "./common.mjs";

const settings = { baseUrl: ADDRESS, temperature: 0, seed: SEED, maxRetries: 0 };
const chat = new ChatOllama({ model: MODEL, numPredict: TOKENS, ...settings });
const parts = [];
for await (const chunk of await chat.stream(GREETING)) parts.push(chunk.content);
same(parts, (await chat.invoke(GREETING)).content);
await refused(() => new ChatOllama({ model: GONE, ...settings }).invoke(GREETING));

const history = CITIES.flatMap((city) => [
  new HumanMessage(`What is the weather in ${city}?`),
  new AIMessage({ content: "", tool_calls: [{ id: `call_${city}`, name: TOOL, args: { city } }] }),
  new ToolMessage({ content: "sunny", tool_call_id: `call_${city}` }),
  new AIMessage(`It is sunny in ${city}.`),
]);
const longer = new ChatOllama({ model: MODEL, numPredict: 60, ...settings });
const answer = await longer.bindTools(TOOLS).invoke([...history, new HumanMessage(QUESTION)]);
check("tools", answer.tool_calls.map((call) => [call.name, call.args]), [CALL]);
const formed = new ChatOllama({ model: MODEL, numPredict: 60, format: SCHEMA, ...settings });
person(JSON.parse((await formed.invoke(PERSON)).content));
vectors(await new OllamaEmbeddings({ model: EMBEDDER, baseUrl: ADDRESS }).embedDocuments(TEXTS));
report("@langchain/ollama");
