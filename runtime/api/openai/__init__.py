"""OpenAI's API: /v1/chat/completions, /v1/completions, /v1/responses, /v1/models (contract, 1.11).

Where Ollama's layer is at fault this one does what OpenAI's documentation says: `max_completion_tokens`, `tool_choice`,
`n`, `logit_bias` and log probabilities are honoured, an error in mid-stream is told, and a Modelfile's temperature and
top_p stand when the request names none (otherwise 1.0, OpenAI's default). `options` and `keep_alive` are taken as in
Ollama's own API, so that num_ctx can be set. Refused by name: images, audio, files, hosted tools, stored answers.
"""
