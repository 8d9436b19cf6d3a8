"""Where things lie on this host, and the settings read from the environment; which sealift this is.

Every `SEALIFT_X` falls back to `OLLAMA_X`, so that a host set up for Ollama needs no change (DESIGN 4).
"""

from __future__ import annotations

import os
from pathlib import Path

VERSION = "0.1.0"  # the project's: pyproject.toml reads it here


def setting(name: str, default: str = "") -> str:
    """`setting("HOST")`: SEALIFT_HOST, else OLLAMA_HOST, else the default; blanks and quotes around it are dropped."""
    for prefix in ("SEALIFT_", "OLLAMA_"):
        value = os.environ.get(prefix + name, "").strip().strip("\"'").strip()
        if value:
            return value
    return default


def home() -> Path:
    """`SEALIFT_HOME`, or `~/.sealift`: keys, trust, policy, state and, unless told otherwise, models."""
    own = os.environ.get("SEALIFT_HOME", "").strip()
    return Path(own).expanduser() if own else Path.home() / ".sealift"


def models_dir() -> Path:
    """The store: `SEALIFT_MODELS`, `OLLAMA_MODELS`, or `models` in the home."""
    own = setting("MODELS")
    return Path(own).expanduser() if own else home() / "models"
