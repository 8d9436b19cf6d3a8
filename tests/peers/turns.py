# ruff: noqa: E501 (templates have the lines they have)
"""Chat templates as models of each family that `manifests/turns.py` knows carry them, written by us from the facts of the
formats, in the ways that they are written in: roles put together or spelled out, with tools, with images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sample:
    """`system`: the template takes a system message. `differs`: why the family's own template writes something else."""

    family: str
    jinja: str
    system: bool = True
    differs: str = ""


SAMPLES = (
    Sample(
        family="alfred",
        jinja="{% for m in messages %}{{ '<start_' + m.role + '>' if m.role != 'user' else '<start_user>' }}{{ m.content.strip() }}<end_message>{% endfor %}{% if add_generation_prompt %}{{ '<start_assistant>' }}{% endif %}",
    ),
    Sample(
        family="alpaca",
        jinja="{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + '\n' }}{% elif m['role'] == 'user' %}{{ '### Instruction:\n' + m['content'] + '\n' }}{% else %}{{ '### Response:\n' + m['content'] + '\n<|EOT|>\n' }}{% endif %}{% endfor %}{{ '### Response:\n' }}",
        differs="<|EOT|> behind an answer is one model's",
    ),
    Sample(
        family="alpaca",
        jinja="{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n{% elif m.role == 'user' %}### Instruction:\n{{ m.content }}\n{% else %}### Response:\n{{ m.content }}\n{% endif %}{% endfor %}{{ '### Response:\n' }}",
    ),
    Sample(
        family="chatml",
        jinja="{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
    Sample(
        family="chatml",
        jinja="{%- if tools %}{{- '<|im_start|>system\nTools:\n' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{{- 'Answer with <tool_call>. Question: is it needed?<|im_end|>\n' }}{%- endif %}{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}{{- '<|im_start|>assistant\n' }}",
    ),
    Sample(
        family="phi-4",
        jinja="{% for m in messages %}{% if m.role == 'system' %}<|im_start|>system<|im_sep|>{{ m.content }}<|im_end|>{% elif m.role == 'user' %}<|im_start|>user<|im_sep|>{{ m.content }}<|im_end|>{% else %}<|im_start|>assistant<|im_sep|>{{ m.content }}<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
    ),
    Sample(
        family="chatqa",
        jinja="{{ bos_token }}{%- for m in messages -%}{%- if m.role == 'system' -%}System: {{ m.content + '\n\n' }}{%- elif m.role == 'user' -%}User: {{ m.content + '\n\n' }}{%- else -%}Assistant: {{ m.content + '\n\n' }}{%- endif -%}{%- endfor -%}Assistant:",
    ),
    Sample(
        family="codellama-70b-instruct",
        jinja="{{ bos_token }}{% for m in messages %}{% set said = 'Source: ' + m.role + '\n\n ' + m.content | trim %}{{ said + ' <step> ' }}{% endfor %}{{ 'Source: assistant\nDestination: user\n\n ' }}",
    ),
    Sample(
        family="command-r",
        jinja="{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|>' }}{% if m.role == 'system' %}{{ '<|SYSTEM_TOKEN|>' }}{% elif m.role == 'user' %}{{ '<|USER_TOKEN|>' }}{% else %}{{ '<|CHATBOT_TOKEN|>' }}{% endif %}{{ m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}",
    ),
    Sample(
        family="command-r7b",
        jinja="{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ m.content }}<|END_OF_TURN_TOKEN|>{% elif m.role == 'user' %}<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{ m.content }}<|END_OF_TURN_TOKEN|>{% else %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>{% endif %}{% endfor %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>",
    ),
    Sample(
        family="falcon-instruct",
        jinja="{% for m in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}{% if m.role == 'system' %}{{ 'System: ' }}{% elif m.role == 'user' %}{{ 'User: ' }}{% else %}{{ 'Falcon: ' }}{% endif %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ '\n' + 'Falcon:' }}{% endif %}",
    ),
    Sample(
        family="gemma-instruct",
        jinja="{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        system=False,
    ),
    Sample(
        family="gemma-instruct",  # Gemma 3: a system text, images
        jinja="{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (first if loop.first else '') }}{% if m.content is string %}{{ m.content | trim }}{% else %}{% for item in m.content %}{{ '<start_of_image>' if item.type == 'image' else item.text }}{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}{{ '<start_of_turn>model\n' }}",
    ),
    Sample(
        family="granite-instruct",
        jinja="{% for m in messages %}{% if m.role == 'user' %}{{ 'Question:\n' + m.content + '\n\n' }}{% elif m.role == 'system' %}{{ 'System:\n' + m.content + '\n\n' }}{% else %}{{ 'Answer:\n' + m.content + '\n\n' }}{% endif %}{% if loop.last and add_generation_prompt %}{{ 'Answer:\n' }}{% endif %}{% endfor %}",
    ),
    Sample(
        family="llama2-chat",
        jinja="{% if messages[0].role == 'system' %}{% set told = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}{% else %}{% set told = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (told if loop.first else '') + m.content | trim + ' [/INST]' }}{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}",
    ),
    Sample(
        family="llama3-instruct",
        jinja="{% for m in messages %}{% set said = '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' %}{{ bos_token + said if loop.first else said }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
    ),
    Sample(
        family="magicoder",
        jinja="{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% elif m.role == 'user' %}{{ '@@ Instruction\n' + m.content + '\n\n' }}{% else %}{{ '@@ Response\n' + m.content + eos_token + '\n\n' }}{% endif %}{% endfor %}{{ '@@ Response\n' }}",
        differs="the end token's text is the file's",
    ),
    Sample(
        family="mistral-instruct",
        jinja="{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
        system=False,
    ),
    Sample(
        family="mistral-instruct",
        jinja="{{ bos_token }}{% if tools %}{{ '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}{% elif m.tool_calls %}{{ '[TOOL_CALLS]' + m.tool_calls | tojson + eos_token }}{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
        differs="newer ones write no blanks around [INST]",
    ),
    Sample(
        family="openchat",
        jinja="{{ bos_token }}{% for m in messages %}{{ 'GPT4 Correct ' + m.role.title() + ': ' + m.content + '<|end_of_turn|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}",
    ),
    Sample(
        family="phi-3",
        jinja="{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>' + '\n' + m.content + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    ),
    Sample(
        family="phi-3",
        jinja="{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + '\n' + m.content + '<|end|>' + '\n' + '<|assistant|>' + '\n' }}{% else %}{{ m.content + '<|end|>' + '\n' }}{% endif %}{% endfor %}",
        system=False,
    ),
    Sample(
        family="solar-instruct",
        jinja="{% for m in messages %}{% if m.role == 'system' %}{{ '### System:\n' + m.content + '\n\n' }}{% elif m.role == 'user' %}{{ '### User:\n' + m.content + '\n\n' }}{% else %}{{ '### Assistant:\n' + m.content + '\n\n' }}{% endif %}{% if loop.last and add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}{% endfor %}",
    ),
    Sample(
        family="starcoder2-instruct",
        jinja="{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% elif m.role == 'user' %}{{ '### Instruction\n' + m.content + '\n\n' }}{% else %}{{ '### Response\n' + m.content + '<|endoftext|>\n\n' }}{% endif %}{% endfor %}{{ '### Response\n' }}",
    ),
    Sample(
        family="vicuna",
        jinja="{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + ' ' }}{% elif m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    ),
    Sample(
        family="zephyr",
        jinja="{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\n' + m.content + eos_token }}\n{% elif m.role == 'system' %}{{ '<|system|>\n' + m.content + eos_token }}\n{% elif m.role == 'assistant' %}{{ '<|assistant|>\n' + m.content + eos_token }}\n{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
    ),
)
