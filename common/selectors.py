"""
Label selectors, with the semantics of Kubernetes: all parts must hold; an empty selector admits everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final

import msgspec

_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_PREFIX: Final = 253
_SHOWN: Final = 80
"""Characters of what is wrong that are repeated in a sentence."""


def is_label_key(text: str) -> bool:
    """Tell whether Kubernetes admits a label of that key: a name, or a DNS name, a slash and a name."""
    prefix, slash, name = text.rpartition("/")
    fits = not slash or (len(prefix) <= _LONGEST_PREFIX and _PREFIX.fullmatch(prefix) is not None)
    return fits and _NAME.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """Tell whether Kubernetes admits a label of that value."""
    return not text or _NAME.fullmatch(text) is not None


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
        return next(_unfit(self.key, self.values), None)


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
        """Say what is wrong with its parts, a line each."""
        labels = [problem for key, value in self.match_labels.items() for problem in _unfit(key, (value,))]
        return (*labels, *(problem for item in self.match_expressions if (problem := item.problem())))

    def __str__(self) -> str:
        parts = [f"{key}={value}" for key, value in sorted(self.match_labels.items())]
        parts += [f"{item.key} {item.operator} {list(item.values) or ''}".strip() for item in self.match_expressions]
        return ", ".join(parts) or "everything"


def _unfit(key: str, values: tuple[str, ...]) -> Iterator[str]:
    """Say what no label can have: then nothing would ever match, or nothing would ever not."""
    if not is_label_key(key):
        yield f"{key[:_SHOWN]!r} is not the key of a label: write it like tier or example.com/tier"
    for value in values:
        if not is_label_value(value):
            yield (
                f"{key[:_SHOWN]}: {value[:_SHOWN]!r} is not the value of a label: it has at most 63 letters, digits, "
                "'-', '_' and '.', and begins and ends with a letter or a digit"
            )
