"""Errors of runtime/text.

    TextError                    anything this folder refuses
    ├── TokenizerError           the vocabulary of a GGUF is not one we can honour           1 / 400
    ├── TemplateError            a chat template cannot be parsed or executed                 1 / 500
    │   ├── TemplateSyntaxError  … the text is not a template; carries the line
    │   ├── TemplateLimitError   … a bound on size, depth, steps or output was met
    │   │   └── TemplateTooSlow      … or on time
    │   └── TemplateRaised       … the template itself called raise_exception                 1 / 400
    ├── MessageError             a message that no template can carry (images, bad shape)     1 / 400
    └── PromptTooLongError       the last message does not fit; carries both numbers          1 / 400

Every class has `exit_code` and `http_status`; an instance may carry `hint`, the next step for the user.
"""

from __future__ import annotations


class TextError(Exception):
    exit_code: int = 1
    http_status: int = 400

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class TokenizerError(TextError):
    pass


class TemplateError(TextError):
    http_status = 500

    def __init__(self, message: str, *, line: int | None = None, hint: str | None = None) -> None:
        super().__init__(message if line is None else f"template: line {line}: {message}", hint=hint)
        self.line = line


class TemplateSyntaxError(TemplateError):
    pass


class TemplateLimitError(TemplateError):
    pass


class TemplateTooSlow(TemplateLimitError):
    pass


class TemplateRaised(TemplateError):
    http_status = 400


class MessageError(TextError):
    pass


class PromptTooLongError(TextError):
    """The wording is the one clients of the contract match on (reference 1.6); the numbers follow in `hint`."""

    code = "context_length_exceeded"  # OpenAI's word

    def __init__(self, *, tokens: int, limit: int, least: bool = False) -> None:
        """`least`: it has at least so many `tokens`, and was not counted to its end."""
        count = f"at least {tokens}" if least else str(tokens)
        super().__init__(
            "the prompt is longer than the context length currently available to the model; shorten the prompt, "
            "adjust the context length in settings, or use a model with a longer context length",
            hint=f"the prompt is {count} tokens and at most {limit} fit; raise num_ctx or shorten the last message",
        )
        self.tokens = tokens
        self.limit = limit
