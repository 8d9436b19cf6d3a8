// Vercel's AI SDK with ollama-ai-provider-v2.
import { embedMany } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { ADDRESS, EMBEDDER, GONE, MODEL, TEXTS, report, vectors } from "./common.mjs";
import { exercise } from "./vercel.mjs";

const provider = createOllama({ baseURL: `${ADDRESS}/api` });
await exercise({ model: provider(MODEL), gone: provider(GONE), choices: ["auto"] });
vectors((await embedMany({ model: provider.embeddingModel(EMBEDDER), values: TEXTS, maxRetries: 0 })).embeddings);
report("ollama-ai-provider-v2");
