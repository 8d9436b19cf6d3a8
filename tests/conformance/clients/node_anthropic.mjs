// @anthropic-ai/sdk: messages, tools, counting.
import Anthropic from "@anthropic-ai/sdk";
import {
  ADDRESS, CALL, CITIES, GONE, HELLO, MODEL, PARAMETERS, QUESTION, TOKENS, TOOL, check, refused, report, same,
} from "./common.mjs";

const client = new Anthropic({ baseURL: ADDRESS, apiKey: "none", maxRetries: 0 });
const asked = { model: MODEL, messages: HELLO, max_tokens: TOKENS, temperature: 0 };
const whole = await client.messages.create(asked);
const parts = [];
const stream = client.messages.stream(asked).on("text", (part) => parts.push(part));
const final = await stream.finalMessage();
same(parts, whole.content[0].text);
check("usage", [final.usage.output_tokens, final.stop_reason], [whole.usage.output_tokens, whole.stop_reason]);
const counted = await client.messages.countTokens({ model: MODEL, messages: HELLO });
check("usage", counted.input_tokens, whole.usage.input_tokens);
await refused(() => client.messages.create({ ...asked, model: GONE }));

const messages = CITIES.flatMap((city) => [
  { role: "user", content: `What is the weather in ${city}?` },
  { role: "assistant", content: [{ type: "tool_use", id: `toolu_${city}`, name: TOOL, input: { city } }] },
  { role: "user", content: [{ type: "tool_result", tool_use_id: `toolu_${city}`, content: "sunny" }] },
  { role: "assistant", content: `It is sunny in ${city}.` },
]);
messages.push({ role: "user", content: QUESTION });
const tools = [{ name: TOOL, description: "The weather of a city", input_schema: PARAMETERS }];
const history = { model: MODEL, messages, max_tokens: 60, temperature: 0, tools };
const uses = (message) => message.content.filter((block) => block.type === "tool_use");
for (const tool_choice of [{ type: "auto" }, { type: "any" }, { type: "tool", name: TOOL }]) {
  const found = uses(await client.messages.create({ ...history, tool_choice }));
  check("tools", found.map((use) => [use.name, use.input]), [CALL]);
}
check("tools", uses(await client.messages.stream(history).finalMessage()).map((use) => use.input), [CALL[1]]);
report("@anthropic-ai/sdk");
