# ruff: noqa: E501 (templates have the lines they have)
"""Templates as each family's models carry them, written by us from the facts of the formats, in both languages; what
they make of one conversation with a tool, and how an answer after that prompt is read.

The conversation: a system text S, the question Q, a call of get_weather for Paris, its answer "sunny". `call`: how the
template writes that call in a conversation. An answer that is written so is read as that call again.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.text.message import Message, ToolCall
from tests.peers.answers import PARIS, Part, say, think, tool

WEATHER = tool("get_weather", city={"type": "string"})
TOOL_JSON = (
    '{"type": "function", "function": {"name": "get_weather", "description": "about get_weather", "parameters": '
    '{"type": "object", "properties": {"city": {"type": "string"}}}}}'
)
TOOL_GO = (
    '{"type":"function","function":{"name":"get_weather","description":"about get_weather","parameters":'
    '{"type":"object","properties":{"city":{"type":"string"}}}}}'
)
TALK = (
    Message(role="system", content="S"),
    Message(role="user", content="Q"),
    Message(role="assistant", tool_calls=(ToolCall(name="get_weather", arguments={"city": "Paris"}),)),
    Message(role="tool", content="sunny"),
)


@dataclass(frozen=True, kw_only=True)
class Template:
    """answers: (text, parts) after the prompt. shows: capabilities beside tools and tool_results."""

    name: str
    family: str
    source: str
    prompt: str
    call: str
    tags: tuple[str, str] | None = None
    answers: tuple[tuple[str, list[Part]], ...] = ()
    think: bool | str | None = None
    controls: tuple[str, ...] = ()  # what its vocabulary has as control tokens


THINK = ("<think>", "</think>")
CHATML = ("<|im_start|>", "<|im_end|>")
HERMES_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
HERMES_CALL_GO = '<tool_call>\n{"name": "get_weather", "arguments": {"city":"Paris"}}\n</tool_call>'
SUNNY = ("It is sunny.", [say("It is sunny.")])

GO = [
    Template(
        name="Qwen 2.5",
        family="hermes",
        source="""{{- if .Messages }}
{{- if or .System .Tools }}<|im_start|>system
{{- if .System }}
{{ .System }}
{{- end }}
{{- if .Tools }}

# Tools

<tools>
{{- range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
</tools>
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Content }}{{ .Content }}
{{- else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}
{{- end }}""",
        prompt="<|im_start|>system\nS\n\n# Tools\n\n<tools>\n"
        '{"type": "function", "function": {get_weather about get_weather {object <nil> <nil> [] '
        '{"city":{"type":"string"}}}}}\n</tools><|im_end|>\n<|im_start|>user\nQ<|im_end|>\n'
        f"<|im_start|>assistant\n{HERMES_CALL_GO}<|im_end|>\n<|im_start|>user\n<tool_response>\nsunny\n</tool_response>"
        "<|im_end|>\n<|im_start|>assistant\n",
        call=HERMES_CALL_GO,
        answers=(SUNNY, ("Well.\n" + HERMES_CALL, [say("Well."), PARIS])),
        controls=CHATML,
    ),
    Template(
        name="Qwen 3",
        family="hermes",
        tags=THINK,
        think=True,
        source="""{{- if or .System .Tools }}<|im_start|>system
{{ .System }}
{{- if .Tools }}
<tools>
{{- range .Tools }}
{{ . }}
{{- end }}
</tools>
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}
{{- if and $.IsThinkSet (eq $i 0) }}
{{- if $.Think }} /think{{ else }} /no_think{{ end }}
{{- end }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Thinking }}<think>{{ .Thinking }}</think>
{{ end -}}
{{ .Content }}
{{- range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>
{{- end }}<|im_end|>
{{ else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ if and $.IsThinkSet (not $.Think) }}<think>

</think>

{{ end }}
{{- end }}
{{- end }}""",
        prompt=f"<|im_start|>system\nS\n<tools>\n{TOOL_GO}\n</tools><|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
        f"<|im_start|>assistant\n{HERMES_CALL_GO}<|im_end|>\n<|im_start|>user\n<tool_response>\nsunny\n</tool_response>"
        "<|im_end|>\n<|im_start|>assistant\n",
        call=HERMES_CALL_GO,
        answers=(
            ("<think>\nHm.\n</think>\n\nIt is sunny.", [think("Hm."), say("It is sunny.")]),
            (f"<think>\nHm.\n</think>\n\n{HERMES_CALL}", [think("Hm."), PARIS]),
        ),
        controls=CHATML,
    ),
    Template(
        name="Llama 3.1",
        family="llama",
        source="""{{- if or .System .Tools }}<|start_header_id|>system<|end_header_id|>
{{- if .System }}

{{ .System }}
{{- end }}<|eot_id|>
{{- end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}<|start_header_id|>user<|end_header_id|>
{{- if and $.Tools (eq $i 1) }}

Answer with JSON: {"name": function name, "parameters": its arguments}.

{{ range $.Tools }}
{{- . }}
{{ end }}
{{- end }}

{{ .Content }}<|eot_id|>{{ if $last }}<|start_header_id|>assistant<|end_header_id|>

{{ end }}
{{- else if eq .Role "assistant" }}<|start_header_id|>assistant<|end_header_id|>
{{- if .ToolCalls }}
{{ range .ToolCalls }}
{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}{{ end }}
{{- else }}

{{ .Content }}
{{- end }}{{ if not $last }}<|eot_id|>{{ end }}
{{- else if eq .Role "tool" }}<|start_header_id|>ipython<|end_header_id|>

{{ .Content }}<|eot_id|>{{ if $last }}<|start_header_id|>assistant<|end_header_id|>

{{ end }}
{{- end }}
{{- end }}""",
        prompt="<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        'Answer with JSON: {"name": function name, "parameters": its arguments}.\n\n'
        f"{TOOL_GO}\n\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "get_weather", "parameters": {"city":"Paris"}}<|eot_id|>'
        "<|start_header_id|>ipython<|end_header_id|>\n\nsunny<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        call='{"name": "get_weather", "parameters": {"city":"Paris"}}',
        answers=(SUNNY, ('<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}', [PARIS])),
        controls=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
    ),
    Template(
        name="Mistral",
        family="mistral",
        source="""{{- range $i, $_ := .Messages }}
{{- if eq .Role "user" }}
{{- if and (le (len (slice $.Messages $i)) 3) $.Tools }}[AVAILABLE_TOOLS] {{ json $.Tools }}[/AVAILABLE_TOOLS]
{{- end }}[INST] {{ if and $.System (eq $i 1) }}{{ $.System }}

{{ end }}{{ .Content }}[/INST]
{{- else if eq .Role "assistant" }}
{{- if .Content }} {{ .Content }}
{{- else if .ToolCalls }}[TOOL_CALLS] [
{{- range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ json .Function.Arguments }}}
{{- end }}]
{{- end }}</s>
{{- else if eq .Role "tool" }}[TOOL_RESULTS] {"content": {{ .Content }}}[/TOOL_RESULTS]
{{- end }}
{{- end }}""",
        prompt=f"[AVAILABLE_TOOLS] [{TOOL_GO}][/AVAILABLE_TOOLS][INST] S\n\nQ[/INST][TOOL_CALLS] "
        '[{"name": "get_weather", "arguments": {"city":"Paris"}}]</s>[TOOL_RESULTS] {"content": sunny}[/TOOL_RESULTS]',
        call='[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city":"Paris"}}]',
        answers=((" It is sunny.", [say(" It is sunny.")]),),
        controls=("[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "</s>"),
    ),
    Template(
        name="Command R",
        family="command-r",
        source="""{{- range .Messages }}
{{- if eq .Role "system" }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ .Content }}
{{- if $.Tools }}
{{ range $.Tools }}
def {{ .Function.Name }}({{ range $name, $p := .Function.Parameters.Properties }}{{ $name }}: {{ toTypeScriptType $p }}{{ end }})
{{- end }}
Write 'Action:' and a list of calls in JSON.
{{- end }}<|END_OF_TURN_TOKEN|>
{{- else if eq .Role "user" }}<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{ .Content }}<|END_OF_TURN_TOKEN|>
{{- else if eq .Role "assistant" }}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>
{{- if .ToolCalls }}Action: ```json
[
{{- range .ToolCalls }}
    {
        "tool_name": "{{ .Function.Name }}",
        "parameters": {{ .Function.Arguments }}
    }
{{- end }}
]```
{{- else }}{{ .Content }}{{ end }}<|END_OF_TURN_TOKEN|>
{{- else if eq .Role "tool" }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><results>
{{ .ToolName }}: {{ .Content }}</results><|END_OF_TURN_TOKEN|>
{{- end }}
{{- end }}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>""",
        prompt="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>S\n\ndef get_weather(city: string)\nWrite 'Action:' and a list of "
        "calls in JSON.<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Q<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Action: ```json\n[\n    {\n"
        '        "tool_name": "get_weather",\n        "parameters": {"city":"Paris"}\n    }\n]```<|END_OF_TURN_TOKEN|>'
        "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><results>\nget_weather: sunny</results><|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        call='Action: ```json\n[\n    {\n        "tool_name": "get_weather",\n        "parameters": {"city":"Paris"}\n'
        "    }\n]```",
        answers=(SUNNY,),
        controls=("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    ),
    Template(
        name="DeepSeek R1",
        family="deepseek",
        tags=THINK,
        think=True,
        source="""{{- .System }}{{ if .Tools }}{{ .Tools }}{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}<｜User｜>{{ .Content }}
{{- else if eq .Role "assistant" }}<｜Assistant｜>
{{- if and .Thinking $last }}<think>
{{ .Thinking }}
</think>
{{ end }}{{ .Content }}
{{- if .ToolCalls }}<｜tool▁calls▁begin｜>
{{- range .ToolCalls }}<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ .Function.Name }}
```json
{{ .Function.Arguments }}
```<｜tool▁call▁end｜>
{{- end }}<｜tool▁calls▁end｜>
{{- end }}<｜end▁of▁sentence｜>
{{- else if eq .Role "tool" }}<｜tool▁output▁begin｜>{{ .Content }}<｜tool▁output▁end｜>
{{- end }}
{{- if and $last (ne .Role "assistant") }}<｜Assistant｜>{{ if $.Think }}<think>
{{ end }}{{ end }}
{{- end }}""",
        prompt=f"S[{TOOL_GO}]<｜User｜>Q<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function"
        "<｜tool▁sep｜>get_weather\n"
        '```json\n{"city":"Paris"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>'
        "<｜tool▁output▁begin｜>sunny<｜tool▁output▁end｜><｜Assistant｜><think>\n",
        call="<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city":"Paris"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        answers=(
            ("Hm.\n</think>\n\nIt is sunny.", [think("Hm."), say("It is sunny.")]),
            ("Hm", [think("Hm")]),
        ),
        controls=("<｜User｜>", "<｜Assistant｜>", "<｜tool▁sep｜>", "<｜tool▁call▁begin｜>", "<｜end▁of▁sentence｜>"),
    ),
    Template(
        name="Gemma 3 with tools, a community's template",
        family="inferred",
        source="""{{- range $i, $_ := .Messages }}
{{- if eq .Role "user" }}<start_of_turn>user
{{ if and $.Tools (eq $i 1) }}{{ $.System }} Functions: {{ json $.Tools }}
{{ end }}{{ .Content }}<end_of_turn>
{{ else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}{{ if .ToolCalls }}```tool_call
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ json .Function.Arguments }}}{{ end }}
```{{ end }}<end_of_turn>
{{ else if eq .Role "tool" }}<start_of_turn>user
```tool_output
{{ .Content }}
```<end_of_turn>
{{ end }}
{{- end }}<start_of_turn>model
""",
        prompt=f"<start_of_turn>user\nS Functions: [{TOOL_GO}]\nQ<end_of_turn>\n<start_of_turn>model\n```tool_call\n"
        '{"name": "get_weather", "arguments": {"city":"Paris"}}\n```<end_of_turn>\n<start_of_turn>user\n'
        "```tool_output\nsunny\n```<end_of_turn>\n<start_of_turn>model\n",
        call='```tool_call\n{"name": "get_weather", "arguments": {"city":"Paris"}}\n```',
        answers=(SUNNY, ("```python\nx = {1}\n```", [say("```python\nx = {1}\n```")])),
        controls=("<start_of_turn>", "<end_of_turn>"),
    ),
]

JINJA = [
    Template(
        name="Qwen 3",
        family="hermes",
        tags=THINK,
        source="""{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
    {{- '<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{% endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' and message.content is string %}{%- set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set thought = message.reasoning_content if message.reasoning_content is string else '' %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if thought and loop.index0 > ns.last %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content.lstrip('\\n') }}
        {%- for call in message.tool_calls or [] %}
            {%- if not loop.first or content %}{{- '\\n' }}{% endif %}
            {%- set call = call.function if call.function else call %}
            {{- '<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
            {%- if call.arguments is string %}{{- call.arguments }}{% else %}{{- call.arguments | tojson }}{% endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}""",
        prompt=f"<|im_start|>system\nS\n\n<tools>\n{TOOL_JSON}\n</tools><|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
        f"<|im_start|>assistant\n{HERMES_CALL}<|im_end|>\n<|im_start|>user\n<tool_response>\nsunny\n</tool_response>"
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        call=HERMES_CALL,
        think=False,
        answers=(
            SUNNY,
            ("<think>\nHm.\n</think>\n\nIt is sunny.", [think("Hm."), say("It is sunny.")]),
        ),
        controls=CHATML,
    ),
    Template(
        name="a reasoning model that opens the tag in its prompt",
        family="json",
        tags=THINK,
        source="""{{ bos_token }}{{ tools | tojson if tools }}{% for m in messages %}<|im_start|>{{ m.role }}
{% set text = m.content.split('</think>')[-1] %}{{ text }}
{%- for c in m.tool_calls or [] %}{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
{%- endfor %}<|im_end|>
{% endfor %}<|im_start|>assistant
<think>
""",
        prompt=f"<s>[{TOOL_JSON}]<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
        '{"name": "get_weather", "arguments": {"city": "Paris"}}<|im_end|>\n<|im_start|>tool\nsunny<|im_end|>\n'
        "<|im_start|>assistant\n<think>",
        call='{"name": "get_weather", "arguments": {"city": "Paris"}}',
        answers=(
            ("Hm.\n</think>\n\nYes.", [think("Hm."), say("Yes.")]),
            ('</think>{"name": "get_weather", "arguments": {"city": "Paris"}}', [PARIS]),
            ("<think>Hm.</think>Yes.", [think("Hm."), say("Yes.")]),
        ),
        controls=CHATML,
    ),
    Template(
        name="Llama 3.1",
        family="llama",
        source="""{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now("%d") if false else "26 Jul 2024" %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}{% set messages = messages[1:] %}
{%- else %}{% set system = "" %}{% endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" + system + "<|eot_id|>" }}
{%- if tools is not none %}
    {%- set first = messages[0]['content'] | trim %}{% set messages = messages[1:] %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\nRespond as {"name": function, "parameters": arguments}.\\n\\n' }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{% endfor %}
    {{- first + "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{- raise_exception("one call at a time") }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- "}<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}{{- message.content }}{% endif %}
        {{- "<|eot_id|>" }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}""",
        prompt="<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nS<|eot_id|>"
        '<|start_header_id|>user<|end_header_id|>\n\nRespond as {"name": function, "parameters": arguments}.\n\n'
        '{\n    "type": "function",\n    "function": {\n        "name": "get_weather",\n'
        '        "description": "about get_weather",\n        "parameters": {\n            "type": "object",\n'
        '            "properties": {\n                "city": {\n                    "type": "string"\n'
        "                }\n            }\n        }\n    }\n}\n\n"
        "Q<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "get_weather", "parameters": {"city": "Paris"}}<|eot_id|>'
        "<|start_header_id|>ipython<|end_header_id|>\n\nsunny<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        call='{"name": "get_weather", "parameters": {"city": "Paris"}}',
        answers=(SUNNY,),
        controls=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
    ),
    Template(
        name="Mistral, which is strict about ids and turns",
        family="mistral",
        source="""{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] %}{% set talk = messages[1:] %}
{%- else %}{% set talk = messages %}{% endif %}
{%- set users = talk | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in talk %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and message == users[-1] %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, value in tool.items() if key != "return" %}
                    {%- if value is string %}{{- '"' + key + '": "' + value + '"' }}
                    {%- else %}{{- '"' + key + '": ' + value | tojson }}{% endif %}
                    {%- if not loop.last %}{{- ", " }}{% endif %}
                {%- endfor %}
                {{- "}}" }}
            {%- endfor %}
            {{- "][/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + (system + "\\n\\n" if loop.first and system is defined else "") + message["content"] + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for call in message.tool_calls %}
            {%- set out = call.function | tojson %}
            {{- out[:-1] }}
            {%- if not call.id is defined or call.id | length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + call.id + '"}' }}
        {%- endfor %}
        {{- "]" + eos_token }}
    {%- elif message["role"] == "tool" %}
        {%- if not message.tool_call_id is defined or message.tool_call_id | length != 9 %}
            {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content | string + ', "call_id": "' }}
        {{- message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}{{- " " + message["content"] + eos_token }}{% endif %}
{%- endfor %}""",
        prompt=f"<s>[AVAILABLE_TOOLS] [{TOOL_JSON}][/AVAILABLE_TOOLS][INST] S\n\nQ[/INST][TOOL_CALLS] "
        '[{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "call00000"}]<|im_end|>'
        '[TOOL_RESULTS] {"content": sunny, "call_id": "call00000"}[/TOOL_RESULTS]',
        call='[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "call00000"}]',
        answers=(('[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', [PARIS]),),
        controls=("[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    ),
    Template(
        name="Qwen 3 Coder",
        family="xml",
        source="""{% macro parameters(names, schema) %}
{%- for name, field in schema | items %}
{{- '\\n<parameter><name>' ~ name ~ '</name><type>' ~ field.type | string ~ '</type></parameter>' }}
{%- endfor %}{% endmacro %}
{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content }}{% endif %}
{%- if tools is iterable and tools | length > 0 %}
    {{- '\\n<tools>' }}
    {%- for tool in tools %}
        {%- if tool.function is defined %}{% set tool = tool.function %}{% endif %}
        {{- '\\n<function>\\n<name>' ~ tool.name ~ '</name>' }}
        {%- if tool.description is defined %}{{- '\\n<description>' ~ (tool.description | trim) ~ '</description>' }}{% endif %}
        {{- parameters([], tool.parameters.properties) + '\\n</function>' }}
    {%- endfor %}
    {{- '\\n</tools>\\nCall as <function=NAME>\\n<parameter=KEY>\\nvalue\\n</parameter>\\n</function>' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages[1:] %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- for call in message.tool_calls %}
            {%- set call = call.function %}
            {{- '\\n<tool_call>\\n<function=' + call.name + '>\\n' }}
            {%- for key, value in call.arguments | items %}
                {{- '<parameter=' + key + '>\\n' }}
                {%- set value = value | tojson | safe if value is mapping or value is not string else value | string %}
                {{- value + '\\n</parameter>\\n' }}
            {%- endfor %}
            {{- '</function>\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response>\\n<|im_end|>\\n' }}
    {%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}""",
        prompt="<|im_start|>system\nS\n<tools>\n<function>\n<name>get_weather</name>\n<description>about get_weather"
        "</description>\n<parameter><name>city</name><type>string</type></parameter>\n</function>\n</tools>\n"
        "Call as <function=NAME>\n<parameter=KEY>\nvalue\n</parameter>\n</function><|im_end|>\n"
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n<tool_call>\n<function=get_weather>\n<parameter=city>\n"
        "Paris\n</parameter>\n</function>\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nsunny\n"
        "</tool_response>\n<|im_end|>\n<|im_start|>assistant\n",
        call="<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
        answers=(SUNNY,),
        controls=CHATML,
    ),
    Template(
        name="DeepSeek V3, which wants arguments as text and no content",
        family="deepseek",
        tags=THINK,
        source="""{%- set ns = namespace(is_tool=false, system='') %}
{%- for message in messages %}{% if message['role'] == 'system' %}{% set ns.system = message['content'] %}{% endif %}{% endfor %}
{{- bos_token }}{{ ns.system }}{{ tools | tojson if tools }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{{- '<｜User｜>' + message['content'] }}{% endif %}
    {%- if message['role'] == 'assistant' and message['content'] is none %}
        {%- for tool in message['tool_calls'] %}
            {{- '<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' }}
            {{- tool['function']['name'] + '\\n' + '```json' + '\\n' + tool['function']['arguments'] + '\\n' + '```' }}
            {{- '<｜tool▁call▁end｜>' }}
        {%- endfor %}
        {{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}
    {%- endif %}
    {%- if message['role'] == 'assistant' and message['content'] is not none %}
        {{- '<｜Assistant｜>' + message['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}
    {%- endif %}
    {%- if message['role'] == 'tool' %}
        {{- '<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜><｜tool▁outputs▁end｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜>' + ('<think>\\n' if thinking is true) }}{% endif %}""",
        prompt=f"<s>S[{TOOL_JSON}]<｜User｜>Q<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>"
        'get_weather\n```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>'
        "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>sunny<｜tool▁output▁end｜><｜tool▁outputs▁end｜><｜Assistant｜><think>\n",
        think=True,
        call="<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "Paris"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        answers=(("Hm.</think>Yes.", [think("Hm."), say("Yes.")]),),
        controls=("<｜User｜>", "<｜Assistant｜>", "<｜tool▁sep｜>", "<｜tool▁call▁begin｜>", "<｜end▁of▁sentence｜>"),
    ),
    Template(
        name="Command R7B",
        family="command-r7b",
        tags=("<|START_THINKING|>", "<|END_THINKING|>"),
        source="""{{ bos_token }}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' ~ messages[0].content }}
{%- if tools %}{% for tool in tools %}{{ '\\n' ~ {"name": tool.function.name, "parameters": tool.function.parameters}|tojson }}
{%- endfor %}{% endif %}{{ '<|END_OF_TURN_TOKEN|>' }}
{%- for message in messages[1:] %}
    {%- if message.role|lower == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' ~ message.content ~ '<|END_OF_TURN_TOKEN|>' }}
    {%- elif message.role|lower in ('assistant', 'chatbot') %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}
        {%- if message.tool_calls %}
            {%- if message.reasoning_content %}{{ '<|START_THINKING|>' ~ message.reasoning_content ~ '<|END_THINKING|>' }}{% endif %}
            {{- '<|START_ACTION|>[' }}
            {%- for call in message.tool_calls %}
                {{- '\\n    {"tool_call_id": "' ~ loop.index0 ~ '", "tool_name": "' ~ call.function.name ~ '", "parameters": ' }}
                {{- call.function.arguments|tojson ~ '}' }}{{ ',' if not loop.last }}
            {%- endfor %}
            {{- '\\n]<|END_ACTION|>' }}
        {%- else %}{{ '<|START_RESPONSE|>' ~ message.content ~ '<|END_RESPONSE|>' }}{% endif %}
        {{- '<|END_OF_TURN_TOKEN|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><|START_TOOL_RESULT|>[{"results": {"0": ' ~ message.content|tojson }}
        {{- '}}]<|END_TOOL_RESULT|><|END_OF_TURN_TOKEN|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}""",
        prompt='<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>S\n{"name": "get_weather", "parameters": {"type": "object", '
        '"properties": {"city": {"type": "string"}}}}<|END_OF_TURN_TOKEN|>'
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Q<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}}\n]'
        "<|END_ACTION|><|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><|START_TOOL_RESULT|>"
        '[{"results": {"0": "sunny"}}]<|END_TOOL_RESULT|><|END_OF_TURN_TOKEN|>'
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        call='<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}}\n]'
        "<|END_ACTION|>",
        answers=(("<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.", [think("Hm."), say("Yes.")]),),
        controls=("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|START_ACTION|>", "<|END_ACTION|>"),
    ),
    Template(
        name="gpt-oss",
        family="harmony",
        think="max",
        source="""{{- '<|start|>system<|message|>Reasoning: ' ~ reasoning_effort | default('medium') ~ '<|end|>' }}
{{- '<|start|>developer<|message|># Instructions\\n\\n' ~ messages[0].content }}
{%- if tools %}
    {{- '\\n\\nnamespace functions {' }}
    {%- for tool in tools %}
        {{- '\\n// ' ~ tool.function.description ~ '\\ntype ' ~ tool.function.name ~ ' = (_: {' }}
        {%- for name, field in tool.function.parameters.properties.items() %}{{- '\\n' ~ name ~ '?: ' ~ field.type ~ ',' }}
        {%- endfor %}
        {{- '\\n}) => any;' }}
    {%- endfor %}
    {{- '\\n}' }}
{%- endif %}
{{- '<|end|>' }}
{%- for message in messages[1:] %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {%- set call = message.tool_calls[0].function %}
        {%- if message.thinking %}{{- '<|start|>assistant<|channel|>analysis<|message|>' ~ message.thinking ~ '<|end|>' }}{% endif %}
        {{- '<|start|>assistant<|channel|>commentary to=functions.' ~ call.name ~ ' <|constrain|>json<|message|>' }}
        {{- call.arguments | tojson ~ '<|call|>' }}
        {%- set ns = namespace(name=call.name) %}
    {%- elif message.role == 'assistant' %}
        {{- '<|start|>assistant<|channel|>final<|message|>' ~ message.content ~ '<|end|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|start|>functions.' ~ message.name ~ ' to=assistant<|channel|>commentary<|message|>' ~ message.content ~ '<|end|>' }}
    {%- else %}{{- '<|start|>' ~ message.role ~ '<|message|>' ~ message.content ~ '<|end|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{% endif %}""",
        prompt="<|start|>system<|message|>Reasoning: high<|end|><|start|>developer<|message|># Instructions\n\nS\n\n"
        "namespace functions {\n// about get_weather\ntype get_weather = (_: {\ncity?: string,\n}) => any;\n}<|end|>"
        "<|start|>user<|message|>Q<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        '<|constrain|>json<|message|>{"city": "Paris"}<|call|><|start|>functions.get_weather to=assistant<|channel|>'
        "commentary<|message|>sunny<|end|><|start|>assistant",
        call='<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}',
        answers=(
            (
                "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
                [think("Hm."), say("Yes.")],
            ),
        ),
        controls=("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>", "<|return|>"),
    ),
    Template(
        name="GLM",
        family="glm",
        tags=THINK,
        think=False,
        source="""[gMASK]<sop>{% if tools %}<|system|>
{% for tool in tools %}{{ tool | tojson(ensure_ascii=False) }}
{% endfor %}{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}<|user|>
{{ m.content }}{{ '/nothink' if enable_thinking is defined and not enable_thinking }}
{%- elif m.role == 'assistant' %}<|assistant|>
{%- if m.tool_calls %}{% for tc in m.tool_calls %}
{{ '<tool_call>' + tc.function.name }}
{% for k, v in tc.function.arguments.items() %}<arg_key>{{ k }}</arg_key>
<arg_value>{{ v | tojson(ensure_ascii=False) if v is not string else v }}</arg_value>
{% endfor %}</tool_call>{% endfor %}{% endif %}
{%- elif m.role == 'tool' %}<|observation|>
<tool_response>
{{ m.content }}
</tool_response>
{%- else %}<|system|>
{{ m.content }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{{ '\\n<think></think>' if enable_thinking is defined and not enable_thinking }}{% endif %}""",
        prompt=f"[gMASK]<sop><|system|>\n{TOOL_JSON}\n<|system|>\nS<|user|>\nQ/nothink<|assistant|>"
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call><|observation|>\n"
        "<tool_response>\nsunny\n</tool_response><|assistant|>\n<think></think>",
        call="<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>",
        answers=(("\nIt is sunny.", [say("\nIt is sunny.")]),),
        controls=("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    ),
]

TEMPLATES = [("go", one) for one in GO] + [("jinja", one) for one in JINJA]
