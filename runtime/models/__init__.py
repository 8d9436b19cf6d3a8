"""Models as specs: GGUF metadata becomes a `ModelSpec` (data), a `Plan` (data) and bound weights (views)."""

from __future__ import annotations

from runtime.models.load import load, load_spec
from runtime.models.lower import lower
from runtime.models.spec import ModelSpec

__all__ = ["ModelSpec", "load", "load_spec", "lower"]
