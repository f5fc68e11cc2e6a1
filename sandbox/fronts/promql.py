"""
A little PromQL: what the scorer asks, evaluated over simulated samples, and refused in Prometheus's words.

It knows avg_over_time and rate of a selector over a range, sum by labels, label_replace with a plain text, `or`, and
vector of a number, in any nesting. Anything else is an error, as unknown functions are to Prometheus.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NoReturn, Protocol


@dataclass(frozen=True, slots=True)
class Series:
    """One element of a vector; labels without the metric's name."""

    labels: Mapping[str, str]
    value: float


class Samples(Protocol):
    """What the simulated volumes were measured at."""

    def __call__(self, metric: str, window: timedelta, now: datetime) -> Sequence[Series]:
        """
        Return each series of a metric over the window that ends now: a gauge's average, a counter's rate per second.

        Empty for a metric that there is not.
        """
        ...


class QueryError(Exception):
    """A query that is not answered, in the words of Prometheus."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        """Prometheus's errorType: bad_data for one that cannot be read, execution for one that cannot be evaluated."""


def evaluate(query: str, samples: Samples, now: datetime) -> list[Series]:
    """Evaluate a query at one moment. Raises QueryError."""
    return _Parser(query).parse()(samples, now)


Vector = Callable[[Samples, datetime], list[Series]]

_TOKEN = re.compile(
    r"""\s*(?:(?P<range>\[\s*[^\]]*\])|(?P<string>"(?:[^"\\]|\\.)*")|(?P<name>[a-zA-Z_:][\w:]*)"""
    r"""|(?P<number>\d+(?:\.\d+)?)|(?P<sign>=~|!~|!=|[=(){},]))"""
)
_RANGE = re.compile(r"(?:\d+(?:ms|[smhdwy]))+")
_PART = re.compile(r"(\d+)(ms|[smhdwy])")
_LABEL = re.compile(r"[a-zA-Z_]\w*")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800, "y": 31_536_000}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # a group of _TOKEN, or "end"
    text: str
    column: int  # the first is 1


class _Parser:
    """Reads by descent; each method returns a function that evaluates what it has read."""

    def __init__(self, query: str) -> None:
        self._tokens = _tokens(query)
        self._next = 0

    def parse(self) -> Vector:
        if self._peek.kind == "end":
            _bad(self._peek, "no expression found in input")
        vector = self._union()
        if self._peek.kind != "end":
            _bad(self._peek, f"unexpected {_shown(self._peek)}")
        return vector

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek
        if token.kind != "end":
            self._next += 1
        return token

    def _expect(self, text: str) -> None:
        token = self._take()
        if token.text != text:
            _bad(token, f"unexpected {_shown(token)}")

    def _string(self) -> str:
        token = self._take()
        if token.kind != "string":
            _bad(token, f"unexpected {_shown(token)} in label matching, expected string")
        return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), token.text[1:-1])

    def _union(self) -> Vector:
        parts = [self._term()]
        while self._peek.text == "or":
            self._take()
            parts.append(self._term())
        return parts[0] if len(parts) == 1 else _union(parts)

    def _term(self) -> Vector:
        token = self._take()
        if token.text == "(":
            inner = self._union()
            self._expect(")")
            return inner
        if token.kind != "name":
            _bad(token, f"unexpected {_shown(token)}")
        match token.text:
            case "sum":
                return self._sum()
            case "label_replace":
                return self._label_replace()
            case "vector":
                return self._vector()
            case "avg_over_time" | "rate" as function:
                return self._over_time(function)
        if self._peek.text == "(":
            _bad(token, f'unknown function with name "{token.text}"')
        return _bad(token, "this sandbox answers no instant vectors: ask for avg_over_time or rate over a range")

    def _sum(self) -> Vector:
        labels: tuple[str, ...] = ()
        if self._peek.text == "by":
            self._take()
            self._expect("(")
            labels = self._names()
        self._expect("(")
        inner = self._union()
        self._expect(")")
        return _sum(inner, labels)

    def _names(self) -> tuple[str, ...]:
        names: list[str] = []
        while self._peek.text != ")":
            token = self._take()
            if token.kind != "name":
                _bad(token, f"unexpected {_shown(token)} in grouping opts, expected label")
            names.append(token.text)
            if self._peek.text == ",":
                self._take()
        self._expect(")")
        return tuple(names)

    def _label_replace(self) -> Vector:
        self._expect("(")
        inner = self._union()
        arguments = []
        for _ in range(4):
            self._expect(",")
            arguments.append(self._string())
        self._expect(")")
        target, replacement, source, pattern = arguments
        return _label_replace(inner, target, replacement, source, pattern)

    def _vector(self) -> Vector:
        self._expect("(")
        token = self._take()
        if token.kind != "number":
            _bad(token, f"unexpected {_shown(token)}")
        self._expect(")")
        return lambda _samples, _now: [Series({}, float(token.text))]

    def _over_time(self, function: str) -> Vector:
        self._expect("(")
        metric = self._take()
        if metric.kind != "name":
            _bad(metric, f"unexpected {_shown(metric)}")
        matchers = self._matchers() if self._peek.text == "{" else ()
        token = self._take()
        if token.kind != "range":
            _bad(metric, f'expected type range vector in call to function "{function}", got instant vector')
        window = _window(token)
        self._expect(")")

        def over_time(samples: Samples, now: datetime) -> list[Series]:
            found = samples(metric.text, window, now)
            return _distinct([series for series in found if all(matches(series.labels) for matches in matchers)])

        return over_time

    def _matchers(self) -> tuple[Callable[[Mapping[str, str]], bool], ...]:
        self._take()
        matchers = []
        while self._peek.text != "}":
            label, operator = self._take(), self._take()
            if label.kind != "name" or operator.text not in {"=", "!=", "=~", "!~"}:
                _bad(operator, f"unexpected {_shown(operator)} in label matching, expected label matching operator")
            matchers.append(_matcher(label.text, operator.text, self._string()))
            if self._peek.text == ",":
                self._take()
        self._take()
        return tuple(matchers)


def _tokens(query: str) -> list[_Token]:
    tokens = []
    position = 0
    text = query.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            column = position + len(text[position:]) - len(text[position:].lstrip())
            _bad(_Token("", "", column + 1), f"unexpected character: '{text[column]}'")
        tokens.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup) + 1))
        position = match.end()
    end = _Token("end", "end of input", len(query) + 1)
    if sum({"(": 1, ")": -1}.get(token.text, 0) for token in tokens) > 0:
        _bad(end, "unclosed left parenthesis")  # found while reading the words, before any of them is understood
    return [*tokens, end]


def _window(token: _Token) -> timedelta:
    text = token.text[1:-1].strip()
    if not _RANGE.fullmatch(text):
        _bad(token, f'bad duration syntax: "{text}"')
    seconds = sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    if seconds <= 0:
        _bad(dataclasses.replace(token, column=token.column + 1), "duration must be greater than 0")
    return timedelta(seconds=seconds)


def _matcher(label: str, operator: str, value: str) -> Callable[[Mapping[str, str]], bool]:
    if operator in {"=", "!="}:
        return lambda labels: (labels.get(label, "") == value) == (operator == "=")
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise _bad_data(f"parse error: error parsing regexp: {error}") from error
    return lambda labels: (pattern.fullmatch(labels.get(label, "")) is not None) == (operator == "=~")


def _union(parts: Sequence[Vector]) -> Vector:
    def union(samples: Samples, now: datetime) -> list[Series]:
        found: dict[frozenset[tuple[str, str]], Series] = {}
        for part in parts:
            for series in part(samples, now):
                found.setdefault(frozenset(series.labels.items()), series)
        return list(found.values())

    return union


def _sum(inner: Vector, by: tuple[str, ...]) -> Vector:
    def total(samples: Samples, now: datetime) -> list[Series]:
        sums: dict[tuple[str, ...], float] = {}
        for series in inner(samples, now):
            group = tuple(series.labels.get(label, "") for label in by)
            sums[group] = sums.get(group, 0.0) + series.value
        return [
            Series({label: value for label, value in zip(by, group, strict=True) if value}, value)
            for group, value in sums.items()
        ]

    return total


def _label_replace(inner: Vector, target: str, replacement: str, source: str, pattern: str) -> Vector:
    if not _LABEL.fullmatch(target):
        raise QueryError("execution", f"invalid destination label name in label_replace(): {target}")
    if "$" in replacement:
        raise QueryError("execution", "this sandbox replaces by a plain text only, not by a group of the regex")
    try:
        matches = re.compile(pattern).fullmatch
    except re.error as error:
        raise QueryError("execution", f"invalid regular expression in label_replace(): {pattern}") from error

    def replaced(samples: Samples, now: datetime) -> list[Series]:
        vector = []
        for series in inner(samples, now):
            labels = dict(series.labels)
            if matches(labels.get(source, "")):
                labels[target] = replacement
            vector.append(Series({label: value for label, value in labels.items() if value}, series.value))
        return _distinct(vector)

    return replaced


def _distinct(vector: list[Series]) -> list[Series]:
    if len({frozenset(series.labels.items()) for series in vector}) < len(vector):
        raise QueryError("execution", "vector cannot contain metrics with the same labelset")
    return vector


def _shown(token: _Token) -> str:
    kinds = {"name": "identifier", "string": "string", "number": "number", "range": "range"}
    kind = kinds.get(token.kind)
    return f'{kind} "{token.text}"' if kind else (token.text if token.kind == "end" else f'"{token.text}"')


def _bad(token: _Token, message: str) -> NoReturn:
    raise _bad_data(f"1:{token.column}: parse error: {message}")


def _bad_data(message: str) -> QueryError:
    return QueryError("bad_data", f'invalid parameter "query": {message}')
