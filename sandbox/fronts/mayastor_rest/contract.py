"""
Whether an exchange is one that Mayastor could have had: every request and answer held to the short OpenAPI file here.

The client's tests, the simulator's tests and the recordings all go through `validate_exchange`, so the client and the
simulator cannot drift apart without one of them leaving the file, and the file cannot leave what was recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

FILE: Final = Path(__file__).with_name("openapi.yaml")
_DOCUMENT: Final = "couchestor:mayastor-rest"
_METHODS: Final = frozenset({"get", "put", "delete", "post", "patch"})
_FIRST_ERROR: Final = 400


class ContractError(AssertionError):
    """Raised for an exchange that the file does not allow."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the file."""

    name: str
    method: str
    template: str
    pattern: re.Pattern[str]
    parameters: tuple[Mapping[str, Any], ...]
    body: Mapping[str, Any] | None
    """The schema of the request's body; None if it has none."""
    answers: Mapping[str, Mapping[str, Any]]
    missing_before: str | None
    """The version that brought the call; earlier ones do not know it."""


class Contract:
    """The file, read."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._registry: Registry[Any] = Registry().with_resource(_DOCUMENT, DRAFT202012.create_resource(document))
        self.operations: tuple[Operation, ...] = tuple(self._operations())

    def operation(self, method: str, path: str) -> Operation | None:
        """Find the call; None if the file does not know it. `path` is as sent, with its query and percent signs."""
        bare = urlsplit(path).path
        known = [item for item in self.operations if item.method == method.lower() and item.pattern.fullmatch(bare)]
        # A label's path with a value is also a label's path without one: the longer template is meant.
        return max(known, key=lambda item: len(item.template), default=None)

    def validate(self, method: str, path: str, request_body: object, status: int, response_body: object) -> None:
        """
        Raise ContractError unless such a request may be answered so.

        Bodies are what JSON decodes to; an empty body is None or "". A request that was refused may be malformed.
        """
        where = f"{method} {path} -> {status}"
        empty = response_body is None or response_body == ""
        operation = self.operation(method, path)
        if operation is None:
            if status != 404 or not empty:
                raise ContractError(f"{where}: not a call of the contract; only 404 with an empty body answers it")
            return
        if operation.missing_before is not None and status == 404 and empty:
            return
        self._validate_answer(operation, where, status, response_body, empty=empty)
        if status < _FIRST_ERROR:
            self._validate_request(operation, where, path, request_body)

    def problems(self, schema: str, value: object) -> list[str]:
        """Say what is wrong with a value of one of the file's schemas."""
        return list(self._problems({"$ref": f"#/components/schemas/{schema}"}, value))

    def _validate_answer(self, operation: Operation, where: str, status: int, body: object, *, empty: bool) -> None:
        answer = operation.answers.get(str(status))
        if answer is None:
            raise ContractError(f"{where}: {operation.name} has no such status; it has {', '.join(operation.answers)}")
        content = answer.get("content")
        if content is None:
            if not empty:
                raise ContractError(f"{where}: the answer has a body and should have none")
            return
        if empty:
            raise ContractError(f"{where}: the answer has no body and should have one")
        self._raise_first(f"{where}: answer", content["application/json"]["schema"], body)

    def _validate_request(self, operation: Operation, where: str, path: str, body: object) -> None:
        split = urlsplit(path)
        match = operation.pattern.fullmatch(split.path)
        named = match.groupdict() if match else {}
        given = {"path": {key: unquote(value) for key, value in named.items()}, "query": dict(parse_qsl(split.query))}
        known = {parameter["name"] for parameter in operation.parameters if parameter["in"] == "query"}
        if unknown := given["query"].keys() - known:
            raise ContractError(f"{where}: query {', '.join(sorted(unknown))} is not in the contract")
        for parameter in operation.parameters:
            text = given[parameter["in"]].get(parameter["name"])
            if text is None:
                if parameter.get("required"):
                    raise ContractError(f"{where}: {parameter['name']} is missing and was accepted")
                continue
            schema = parameter["schema"]
            self._raise_first(f"{where}: {parameter['name']}", schema, _typed(text, schema.get("type")))
        if operation.body is not None:
            self._raise_first(f"{where}: request", operation.body, body)
        elif body not in (None, ""):
            raise ContractError(f"{where}: the request has a body and should have none")

    def _raise_first(self, where: str, schema: Mapping[str, Any], value: object) -> None:
        for problem in self._problems(schema, value):
            raise ContractError(f"{where}: {problem}")

    def _problems(self, schema: Mapping[str, Any], value: object) -> Iterator[str]:
        for error in self._validator(schema).iter_errors(value):
            yield f"{error.json_path}: {error.message[:300]}"

    def _validator(self, schema: Mapping[str, Any]) -> Draft202012Validator:
        anchored = {"$id": _DOCUMENT + "/schema", "allOf": [_absolute(schema)]}
        return Draft202012Validator(anchored, registry=self._registry)

    def _operations(self) -> Iterator[Operation]:
        base = self._document["servers"][0]["url"]
        for template, item in self._document["paths"].items():
            shared = item.get("parameters", [])
            for method in _METHODS & item.keys():
                call = item[method]
                body = self._inner(call.get("requestBody"))
                yield Operation(
                    name=call["operationId"],
                    method=method,
                    template=template,
                    pattern=_pattern(base + template),
                    parameters=tuple(self._inner(each) for each in [*shared, *call.get("parameters", [])]),
                    body=body["content"]["application/json"]["schema"] if body else None,
                    answers={code: self._inner(answer) for code, answer in call["responses"].items()},
                    missing_before=item.get("x-missing-before"),
                )

    def _inner(self, item: Any) -> Any:
        """Follow a reference that stands for a whole parameter, answer or body."""
        if not isinstance(item, Mapping) or "$ref" not in item:
            return item
        found: Any = self._document
        for part in item["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return found


def _pattern(template: str) -> re.Pattern[str]:
    """`{name}` is one segment as it was sent: a slash within it is %2F. A key ends at the first equals sign."""
    parts = re.split(r"\{(\w+)\}", template)
    built = "".join(
        f"(?P<{part}>{'[^/=]+' if part == 'key' else '[^/]+'})" if index % 2 else re.escape(part)
        for index, part in enumerate(parts)
    )
    return re.compile(built)


def _absolute(schema: Any) -> Any:
    """The schema with its references said in full, so that it can be checked outside of its document."""
    if isinstance(schema, Mapping):
        return {
            key: _DOCUMENT + value if key == "$ref" and str(value).startswith("#") else _absolute(value)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_absolute(item) for item in schema]
    return schema


def _typed(text: str, kind: str | None) -> object:
    """What a parameter's text says, if it says something of that type."""
    if kind == "integer" and re.fullmatch(r"-?\d+", text):
        return int(text)
    if kind == "boolean" and text in {"true", "false"}:
        return text == "true"
    return text


@cache
def contract() -> Contract:
    """Read the file, once."""
    return Contract(yaml.safe_load(FILE.read_text()))


def validate_exchange(method: str, path: str, request_body: object, status: int, response_body: object) -> None:
    """Raise ContractError unless Mayastor could have answered such a request so; `path` begins with /v0."""
    contract().validate(method, path, request_body, status, response_body)
