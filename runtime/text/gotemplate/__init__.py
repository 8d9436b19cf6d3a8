"""Our own interpreter of Go's text/template, in the dialect of Ollama's chat templates."""

from runtime.text.gotemplate.template import GoTemplate

__all__ = ["GoTemplate"]
