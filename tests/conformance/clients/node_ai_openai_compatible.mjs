// Vercel's AI SDK with its provider for OpenAI's API.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany } from "ai";
import { ADDRESS, EMBEDDER, GONE, MODEL, TEXTS, report, vectors } from "./common.mjs";
import { exercise } from "./vercel.mjs";

const provider = createOpenAICompatible({
  name: "sealift", baseURL: `${ADDRESS}/v1`, apiKey: "none", supportsStructuredOutputs: true,
});
await exercise({ model: provider(MODEL), gone: provider(GONE), choices: ["auto", "required"] });
vectors((await embedMany({ model: provider.embeddingModel(EMBEDDER), values: TEXTS, maxRetries: 0 })).embeddings);
report("@ai-sdk/openai-compatible");
