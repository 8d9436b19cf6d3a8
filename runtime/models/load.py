"""From a parsed GGUF to what an engine needs: the spec, the plan and the bound weights."""

from __future__ import annotations

from manifests.errors import GgufError
from manifests.gguf import Gguf
from native.errors import PlanError
from native.plan import Plan
from native.weight import Weight
from runtime.errors import ArchitectureRefused
from runtime.models.architectures import ARCHITECTURES
from runtime.models.lower import lower
from runtime.models.source import Source
from runtime.models.spec import ModelSpec
from runtime.models.weights import bind


def load(gguf: Gguf) -> tuple[ModelSpec, Plan, dict[str, Weight]]:
    """Everything checked: every key that matters read, every tensor bound once, every width inferred.

    The weights are views of `gguf.buffer`. Raises ArchitectureRefused.
    """
    spec = load_spec(gguf)
    plan = lower(spec)
    weights = bind(gguf, spec, plan)
    try:
        widths = plan.verify({name: (weight.rows, weight.cols) for name, weight in weights.items()})
    except PlanError as error:
        raise ArchitectureRefused(f"{spec.architecture}: {error}") from error
    found = widths[plan.ops[-1].out]
    if spec.pooling is None and found != spec.vocab:
        raise ArchitectureRefused(f"{spec.architecture}: output.weight has {found} rows, the vocabulary {spec.vocab}")
    return spec, plan, weights


def load_spec(gguf: Gguf) -> ModelSpec:
    """The facts alone. Raises ArchitectureRefused, also for files that are no whole model."""
    try:
        name = gguf.architecture
    except GgufError as error:
        raise ArchitectureRefused(str(error)) from error
    kind = gguf.metadata.get("general.type", "model")
    if kind != "model":
        raise ArchitectureRefused(f"general.type: found {kind!r:.40}, expected 'model'")
    parts = gguf.metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise ArchitectureRefused(f"split.count: the file is one of {parts!r:.20} parts, expected a whole model")
    if name not in ARCHITECTURES:
        raise ArchitectureRefused(
            f"unknown architecture {name!r}", hint=f"this version runs {', '.join(sorted(ARCHITECTURES))}"
        )
    return ARCHITECTURES[name](Source(gguf))
