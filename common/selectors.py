"""
Label selectors, with the semantics of Kubernetes: all parts must hold; an empty selector admits everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class Operator(StrEnum):
    """How one requirement compares."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(msgspec.Struct, frozen=True):
    """One condition on one label."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def admits(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the labels satisfy it; NotIn holds for a missing label, as in Kubernetes."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels

    def problem(self) -> str | None:
        """Say what is wrong with it, in one line; None if nothing is."""
        wants_values = self.operator in {Operator.IN, Operator.NOT_IN}
        if not self.key:
            return "a requirement without a key"
        if wants_values and not self.values:
            return f"{self.key}: {self.operator} needs at least one value"
        if not wants_values and self.values:
            return f"{self.key}: {self.operator} takes no values"
        return None


class LabelSelector(msgspec.Struct, frozen=True, rename="camel"):
    """A selector as Kubernetes writes it."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[Requirement, ...] = ()

    def admits(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the labels satisfy every part."""
        if not self.match_labels and not self.match_expressions:
            return True
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.admits(labels) for requirement in self.match_expressions
        )

    def problems(self) -> tuple[str, ...]:
        """Say what is wrong with its requirements, a line each."""
        return tuple(problem for item in self.match_expressions if (problem := item.problem()))

    def __str__(self) -> str:
        parts = [f"{key}={value}" for key, value in sorted(self.match_labels.items())]
        parts += [f"{item.key} {item.operator} {list(item.values) or ''}".strip() for item in self.match_expressions]
        return ", ".join(parts) or "everything"
