// What both of Vercel's providers are asked.
import { generateObject, generateText, jsonSchema, streamText, tool } from "ai";
import {
  CALL, CITIES, GREETING, PARAMETERS, PERSON, QUESTION, SCHEMA, SEED, TOKENS, TOOL, check, person, refused, same,
} from "./common.mjs";

// Ollama's provider writes the temperature where no server looks for it; in its own options it arrives.
const options = { temperature: 0, seed: SEED, num_predict: TOKENS };
const settings = { temperature: 0, maxOutputTokens: TOKENS, maxRetries: 0, providerOptions: { ollama: { options } } };
const tools = { [TOOL]: tool({ description: "The weather of a city", inputSchema: jsonSchema(PARAMETERS) }) };
const messages = CITIES.flatMap((city) => {
  const call = { toolCallId: `call_${city}`, toolName: TOOL };
  return [
    { role: "user", content: `What is the weather in ${city}?` },
    { role: "assistant", content: [{ type: "tool-call", ...call, input: { city } }] },
    { role: "tool", content: [{ type: "tool-result", ...call, output: { type: "text", value: "sunny" } }] },
    { role: "assistant", content: `It is sunny in ${city}.` },
  ];
});
messages.push({ role: "user", content: QUESTION });

export async function exercise({ model, gone, choices }) {
  const { text } = await generateText({ model, prompt: GREETING, ...settings });
  const parts = [];
  for await (const part of streamText({ model, prompt: GREETING, ...settings }).textStream) parts.push(part);
  same(parts, text);
  await refused(() => generateText({ model: gone, prompt: GREETING, ...settings }));
  for (const toolChoice of choices) {
    const asked = { model, messages, tools, toolChoice, ...settings, maxOutputTokens: 60 };
    const { toolCalls } = await generateText(asked);
    check("tools", toolCalls.map((call) => [call.toolName, call.input]), [CALL]);
    const streamed = await streamText(asked).toolCalls;
    check("tools", streamed.map((call) => [call.toolName, call.input]), [CALL]);
  }
  const form = { model, schema: jsonSchema(SCHEMA), prompt: PERSON, ...settings, maxOutputTokens: 60 };
  person((await generateObject(form)).object);
}
