"""A farm of devices that validates machine-learning models, with verdicts one can defend.

    import farm

    farm.plan("smoke")                                    what would run where
    farm.run("latency", model="my.onnx")                  measure one model
    farm.gate("smoke", candidate="new.onnx", baseline="old.onnx").verdict
    farm.results()                                        measurements as a DataFrame
    farm.report("latest", format="md")                    a paper for people or CI

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farm.campaign import gate, plan, run
    from farm.errors import FarmError
    from farm.record import Outcome, Verdict
    from farm.reporting import report
    from farm.store.reader import read_results as results

__all__ = ["FarmError", "Outcome", "Verdict", "gate", "plan", "report", "results", "run"]

_HOMES = {
    "FarmError": ("farm.errors", "FarmError"),
    "Outcome": ("farm.record", "Outcome"),
    "Verdict": ("farm.record", "Verdict"),
    "gate": ("farm.campaign", "gate"),
    "plan": ("farm.campaign", "plan"),
    "report": ("farm.reporting", "report"),
    "results": ("farm.store.reader", "read_results"),
    "run": ("farm.campaign", "run"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'farm' has no attribute '{name}'")
    from importlib import import_module

    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
