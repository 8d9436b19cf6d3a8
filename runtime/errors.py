"""Every way the runtime refuses or fails. One tree; each class carries an exit code and an HTTP status.

RuntimeFailure                 70 / 500   base; raised bare only for a fault of ours
├── RequestRefused              1 / 400   the request itself is wrong
│   ├── OptionRefused           1 / 400   an option out of range, or of the wrong type (then 500: Ollama's own status)
│   ├── ContextExceeded         1 / 400   prompt longer than the context
│   ├── CapabilityMissing       1 / 400   the model cannot do what is asked
│   ├── ThreadRefused           1 / 400   a conversation of which the client sent a part, and the server keeps none
│   ├── Unauthorized            1 / 401   no key, or none that counts
│   └── Forbidden               1 / 403   known, and not for this key, or not offered by this server
├── ModelNotFound               1 / 404   no such model in the store
├── ModelRefused                1 / 500   the model's own content cannot be run
│   └── ArchitectureRefused     1 / 500   unknown architecture, metadata or tensor
├── EngineAbsent               70 / 500   the native library cannot be loaded; the log says why, clients learn no paths
├── PackUnusable               70 / 500   packed weights that are not used; the load goes on without them
├── Unavailable                 4 / 503   nothing wrong with the request; not now
│   ├── ServerBusy              4 / 503   queue full
│   ├── TooManyRequests         4 / 429   a key's own limit is reached
│   ├── ShuttingDown            4 / 503   the server ends, and this request with it
│   ├── OutOfMemory             4 / 500   weights or cache do not fit
│   ├── WorkerDied              4 / 500   the model's process ended under its requests
│   ├── AddressRefused          4 / 503   the server cannot listen where it was told to
│   └── ServerUnreachable       4 / 503   the command line found no server
├── RequestCancelled            1 / 499   the client went away
└── ServerRefused               1 / 500   a server's own error text, passed on to the user of the command line

`str(error)` is the sentence for the client; `.hint`, where given, is the next step for a person; `.param` the field of
the request that is to blame, where it is one; `.code` OpenAI's or Anthropic's word for the error, where it has one.
"""

from __future__ import annotations


class RuntimeFailure(Exception):
    exit_code = 70
    http_status = 500
    code: str | None = None

    def __init__(
        self, message: str, *, hint: str | None = None, http_status: int | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.param = param
        if http_status is not None:
            self.http_status = http_status


class EngineAbsent(RuntimeFailure):
    def __init__(
        self, message: str = "the native engine of this server cannot be loaded", *,
        hint: str | None = "the server's log says why", http_status: int | None = None, param: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message, hint=hint, http_status=http_status, param=param)


class RequestRefused(RuntimeFailure):
    exit_code = 1
    http_status = 400


class OptionRefused(RequestRefused):
    pass


class ContextExceeded(RequestRefused):
    """The text is the one Ollama's clients know."""

    code = "context_length_exceeded"
    TEXT = (
        "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
        "context length in settings, or use a model with a longer context length"
    )

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        super().__init__(message or self.TEXT, hint=hint)


class CapabilityMissing(RequestRefused):
    pass


class ThreadRefused(RequestRefused):
    """Anthropic's code: a client that has the whole conversation sends it again, without `thread`."""

    code = "thread_unsupported_request"

    def __init__(self) -> None:
        super().__init__(
            "'thread' is not supported: this server keeps no conversations, send all messages without it",
            param="thread",
        )


class Unauthorized(RequestRefused):
    http_status = 401


class Forbidden(RequestRefused):
    http_status = 403


class ModelNotFound(RuntimeFailure):
    exit_code = 1
    http_status = 404
    code = "model_not_found"


class ModelRefused(RuntimeFailure):
    exit_code = 1
    http_status = 500


class ArchitectureRefused(ModelRefused):
    pass


class PackUnusable(RuntimeFailure):
    pass


class Unavailable(RuntimeFailure):
    exit_code = 4
    http_status = 503


class ServerBusy(Unavailable):
    TEXT = "server busy, please try again.  maximum pending requests exceeded"

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        super().__init__(message or self.TEXT, hint=hint)


class TooManyRequests(Unavailable):
    """`retry_after`: whole seconds until it makes sense to ask again."""

    http_status = 429

    def __init__(self, message: str, *, retry_after: int = 1, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ShuttingDown(Unavailable):
    def __init__(self, message: str = "the server is shutting down", *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)


class OutOfMemory(Unavailable):
    http_status = 500


class WorkerDied(Unavailable):
    http_status = 500


class AddressRefused(Unavailable):
    pass


class ServerUnreachable(Unavailable):
    pass


class RequestCancelled(RuntimeFailure):
    exit_code = 1
    http_status = 499

    def __init__(self, message: str = "request canceled", *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)


class ServerRefused(RuntimeFailure):
    exit_code = 1
