"""docs/api/openapi.json: what GET /openapi.json answers, but for the version and the address, which are a server's own.
`scripts/docs` writes it."""

from __future__ import annotations

from runtime.api.description.document import page as described


def page() -> str:
    return described(version="1", at="http://127.0.0.1:11434")


if __name__ == "__main__":
    print(page(), end="")
