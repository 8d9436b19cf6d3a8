// What the Node scripts share; its Python twin is common.py, which says more.
import { readFileSync } from "node:fs";
import { join } from "node:path";

export const ADDRESS = process.env.SEALIFT_ADDRESS;
export const [MODEL, EMBEDDER] = [process.env.SEALIFT_MODEL, process.env.SEALIFT_EMBEDDER];
export const GONE = "no-such-model";
export const GREETING = "Say hello to the sailors.";
export const HELLO = [{ role: "user", content: GREETING }];
export const TEXTS = ["a cat sat on the mat", "a queen is good"];
export const [SEED, TOKENS] = [7, 24];
export const QUESTION = "What is the weather in Oslo?";
export const CITIES = ["Paris", "London", "Berlin", "Rome", "Madrid"];
export const TOOL = "get_weather";
export const PARAMETERS = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
export const FUNCTION = { name: TOOL, description: "The weather of a city", parameters: PARAMETERS };
export const TOOLS = [{ type: "function", function: FUNCTION }];
export const CALL = [TOOL, { city: "Oslo" }];
export const SCHEMA = {
  type: "object",
  properties: { name: { type: "string", maxLength: 12 }, age: { type: "integer", minimum: 0 } },
  required: ["name", "age"],
  additionalProperties: false,
};
export const PERSON = "Tell me of a person, as JSON: name and age.";

const started = Date.now();
const checked = new Set();

export function examples({ asText }) {
  const messages = CITIES.flatMap((city) => {
    const given = asText ? JSON.stringify({ city }) : { city };
    const call = { id: `call_${city}`, type: "function", function: { name: TOOL, arguments: given } };
    return [
      { role: "user", content: `What is the weather in ${city}?` },
      { role: "assistant", content: "", tool_calls: [call] },
      { role: "tool", tool_call_id: `call_${city}`, content: "sunny" },
      { role: "assistant", content: `It is sunny in ${city}.` },
    ];
  });
  return [...messages, { role: "user", content: QUESTION }];
}

export function check(what, found, expected = true) {
  if (JSON.stringify(found) !== JSON.stringify(expected)) {
    console.error(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(found)}`);
    process.exit(1);
  }
  checked.add(what);
}

export function same(streamed, whole) {
  check("streaming", streamed.filter((part) => part).length > 1);
  check("streamed is not streamed", streamed.join(""), whole);
}

export async function refused(ask, word = GONE) {
  try {
    await ask();
  } catch (error) {
    const told = `${error.message} ${error.responseBody ?? ""} ${error.lastError?.responseBody ?? ""}`;
    return check("errors", told.includes(word) || told);
  }
  check("errors", "nothing was raised");
}

export function person(found) {
  const kept = Number.isInteger(found.age) && found.name.length <= 12;
  check("schema", [Object.keys(found).sort(), kept], [["age", "name"], true]);
}

export function vectors(found) {
  check("embeddings", [found.length, found[0].length === found[1].length, found[0].length > 1], [2, true, true]);
}

// `name` is the package; its version is read where npm put it: under the folder the runner names.
export function report(name) {
  const told = JSON.parse(readFileSync(join(process.env.SEALIFT_NODE_MODULES, name, "package.json")));
  const seconds = (Date.now() - started) / 1000;
  console.log(JSON.stringify({ client: `${name} (npm)`, version: told.version, checked: [...checked], seconds }));
}
