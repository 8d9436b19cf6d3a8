"""A template for SmolLM2 that calls tools."""

from __future__ import annotations

# ChatML with Hermes' form of tools, which the model's own template lacks.
TEMPLATE = """{{- if or .System .Tools }}<|im_start|>system
{{ .System }}{{ if .Tools }}You may call these tools:
<tools>
{{ range .Tools }}{{ . }}
{{ end }}</tools>
Call one with <tool_call>{"name": ..., "arguments": ...}</tool_call>{{ end }}<|im_end|>
{{ end }}{{- range .Messages }}{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ .Content }}{{ range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>{{ end }}<|im_end|>
{{ else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}{{ end }}<|im_start|>assistant
"""
