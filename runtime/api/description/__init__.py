"""What the server says of itself: every route, what it takes and what it answers, as OpenAPI 3.1 (`document.py`).

Answers are not made from it, and nothing here is imported before somebody asks for it. That both say the same is what
tests/conformance/test_description.py and test_schemathesis.py hold.
"""
