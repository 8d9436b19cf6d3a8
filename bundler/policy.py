"""Policy: what this site takes, beyond who signed. No file means the strict default, not "no policy".

    profile = "hybrid"          # signature profile of signing.judge
    roles = ["publisher"]       # needed at least; an approver is needed too once trust.toml names one
    channels = ["acme/*"]       # channels taken: exact, or a prefix followed by one *; absent: all
    max_bytes = 500000000000    # of one bundle's blobs; absent: what the disk has room for
    sources = ["https://registry.ollama.ai/"]   # prefixes of the address a model was pulled from; absent: all
    allow_rollback = false      # true takes a bundle older than the newest seen; it is reported all the same
    allow_gap = true            # false refuses a bundle while numbers before it in its channel were never seen

    [licenses]                  # SPDX expressions; what a model declares, and licence texts that are recognized
    allow = ["Apache-2.0 OR MIT"]   # nothing else is taken, nor a model that states none; absent: all
    deny = ["CC-BY-NC-4.0"]

    [gate]                      # by rule of the content gate (docs/formats/gate.md): "refuse", "warn" or "ignore"
    "template.recursion" = "refuse"

Unknown keys are refused: a misspelt rule must not silently mean "no rule". Unsigned bundles cannot be allowed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from bundler.errors import PolicyRefused
from manifests.errors import FieldError
from manifests.fields import Fields, text_item
from manifests.gate import Rules, check_actions
from manifests.scan import licences
from manifests.statement import Statement, format_time, parse_time

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_POLICY = 1 << 20  # bytes
PROFILES = ("hybrid", "cnsa2", "any")
ROLES = ("approver", "publisher", "root")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    profile: str = "hybrid"
    roles: tuple[str, ...] = ("publisher",)
    channels: tuple[str, ...] | None = None
    max_bytes: int | None = None
    sources: tuple[str, ...] | None = None
    allow_rollback: bool = False
    allow_gap: bool = True
    gate: Rules = field(default_factory=Rules)

    @classmethod
    def load(cls, path: Path) -> Policy:
        """The strict default where there is no file. A file that cannot be understood is an error, never a default."""
        try:
            with path.open("rb") as stream:
                raw = stream.read(MAX_POLICY + 1)
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise PolicyRefused(f"{path}: {error.strerror}") from None
        return cls.parse(raw)

    @classmethod
    def parse(cls, raw: bytes) -> Policy:
        if len(raw) > MAX_POLICY:
            raise PolicyRefused(f"policy.toml: larger than {MAX_POLICY} bytes")
        try:
            return cls._read(Fields.of(tomllib.loads(raw.decode("utf-8"))))
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, FieldError) as error:
            raise PolicyRefused(
                f"policy.toml: {error}", hint="correct the file; nothing is imported until then"
            ) from None

    @classmethod
    def _read(cls, fields: Fields) -> Policy:
        def texts(key: str) -> tuple[str, ...]:
            return fields.array(key, text_item, maximum=1000)

        profile = fields.optional("profile", fields.text) or "hybrid"
        if profile not in PROFILES:
            raise FieldError("profile", f"expected one of {', '.join(PROFILES)}, found {profile[:40]!r}")
        roles = fields.optional("roles", texts) or ("publisher",)
        if unknown := sorted(set(roles) - set(ROLES)):
            raise FieldError("roles", f"unknown role {unknown[0][:40]!r}")
        policy = cls(
            profile=profile,
            roles=roles,
            channels=fields.optional("channels", texts),
            max_bytes=fields.optional("max_bytes", fields.integer),
            sources=fields.optional("sources", texts),
            allow_rollback=bool(fields.optional("allow_rollback", fields.boolean)),
            allow_gap=fields.optional("allow_gap", fields.boolean) is not False,
            gate=_gate_rules(fields),
        )
        fields.done()
        return policy

    def check(self, statement: Statement, now: datetime) -> list[str]:
        """Step 4 without history and disk. `now` is the latest time that is known: the clock's, or one that a trusted
        publisher signed. Raises PolicyRefused; returns what could not be checked."""
        if self.channels is not None and not any(_covers(pattern, statement.channel) for pattern in self.channels):
            raise PolicyRefused(f"channel {statement.channel!r} is not taken here (policy.toml: channels)")
        now = max(now, parse_time(statement.created))
        if statement.expires is not None and parse_time(statement.expires) < now:
            raise PolicyRefused(
                f"the bundle expired on {statement.expires}, and by this host's clock or by the newest signed time it "
                f"is {format_time(now)}",
                hint="ask the publisher for a newer bundle; if that time is wrong, state/channels.time.json in the "
                "home names the bundle that gave it",
            )
        total = sum(blob.size for blob in statement.blobs)
        if self.max_bytes is not None and total > self.max_bytes:
            raise PolicyRefused(f"{total:,} bytes; policy.toml allows {self.max_bytes:,} (max_bytes)")
        for model in statement.models:
            origin = model.source.get("source", "")
            if self.sources is not None and not origin.startswith(self.sources):
                raise PolicyRefused(
                    f"{model.name.short}: source {origin or 'not stated'} is not allowed (policy.toml: sources)"
                )
        unchecked = [] if self.sources is not None else ["sources of the models: no rule in policy.toml"]
        return [*unchecked, *([] if self.gate.licences.any else ["licences: no rule in policy.toml"])]


def _gate_rules(fields: Fields) -> Rules:
    actions = fields.optional("gate", fields.object) or Fields({}, "gate")
    licenses = fields.optional("licenses", fields.object) or Fields({}, "licenses")

    def texts(key: str) -> tuple[str, ...]:
        return licenses.array(key, text_item, maximum=1000)

    given = {rule: actions.text(rule) for rule in actions.names()}
    if problem := check_actions(given):
        raise FieldError("gate", problem)
    taken = licences.Rules.of(licenses.optional("allow", texts), licenses.optional("deny", texts) or ())
    licenses.done()
    return Rules(actions=given, licences=taken)


def _covers(pattern: str, channel: str) -> bool:
    return channel.startswith(pattern[:-1]) if pattern.endswith("*") else channel == pattern
