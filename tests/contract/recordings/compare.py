"""
Whether an answer of the simulator is the one that was recorded, but for what no two runs have in common.

Uuids of replicas and targets are matched by their volume and pool before. Left out are the moments of rebuilds, uuids
of pools, versions and ports; the order of nodes, pools, replicas and targets in lists; how far a rebuild is, to within
some per cent; and, of errors, the words after the name of the error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from sandbox.fronts.mayastor_rest.contract import contract
from tests.contract.recordings.reference import Exchange, Response

PROGRESS: Final = frozenset({"rebuild-progress", "rebuildProgress"})
PROGRESS_PER_CENT: Final = 20
NO_MATTER: Final = frozenset({"poolUuid", "version", "grpcEndpoint", "startTime", "endTime"})
COUNTED: Final = frozenset({"blocksRecovered", "blocksTransferred", "blocksRemaining"})
COUNTED_FRACTION: Final = 0.05
UNSORTED: Final = frozenset({"listNodes", "listPools", "listReplicas", "listTargets"})


def differences(exchange: Exchange, answer: Response) -> tuple[str, ...]:
    """What is not the same, a line for each thing."""
    recorded = exchange.response
    if recorded.status != answer.status:
        return (f"status {answer.status} {_short(answer.body)} instead of {recorded.status} {_short(recorded.body)}",)
    if isinstance(recorded.body, dict) and "kind" in recorded.body:
        return tuple(_error_differences(recorded.body, answer.body))
    found = contract().operation(exchange.request.method, exchange.request.path)
    name = found.name if found else ""
    return tuple(_differences(_ordered(recorded.body, name), _ordered(answer.body, name), ""))


def _error_differences(recorded: dict[str, Any], answer: Any) -> Iterator[str]:
    if not isinstance(answer, dict) or answer.keys() != recorded.keys():
        yield f"{_short(answer)} is no error"
        return
    if answer["kind"] != recorded["kind"]:
        yield f"kind {answer['kind']} instead of {recorded['kind']}"
    for part in ("message", "details"):
        if family(answer[part]) != family(recorded[part]):
            yield f"{part} {answer[part]!r} instead of {recorded[part]!r}"


def family(text: str) -> str:
    """What kind of message it is: the error's name, or what comes before the particulars."""
    named = re.match(r"SvcError :: \w+", text)
    if named:
        return named.group()
    if text.startswith("Json deserialize error"):
        return "Json deserialize error"
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "*", text.partition("metadata")[0]).replace("disk on fire", "no")


def _ordered(body: Any, name: str) -> Any:
    """Lists of no order, by the ids or uuids of what is in them."""
    if name in UNSORTED and isinstance(body, list):
        return {str(item.get("id") or item.get("uuid")): item for item in body}
    if name == "readSpecs" and isinstance(body, dict):
        return {key: _ordered(items, "listNodes") for key, items in body.items()}
    return body


def _differences(recorded: Any, answer: Any, where: str) -> Iterator[str]:
    if isinstance(recorded, dict) and isinstance(answer, dict):
        missing, more = recorded.keys() - answer.keys(), answer.keys() - recorded.keys()
        if missing or more:
            yield f"{where or '.'}:{_set('without', missing)}{_set('with', more)}"
        for key in recorded.keys() & answer.keys():
            if not _no_matter(key, recorded[key], answer[key]):
                yield from _differences(recorded[key], answer[key], f"{where}.{key}")
    elif isinstance(recorded, list) and isinstance(answer, list):
        if len(recorded) != len(answer):
            yield f"{where}: {len(answer)} items instead of {len(recorded)}"
        for index, (theirs, ours) in enumerate(zip(recorded, answer, strict=False)):
            yield from _differences(theirs, ours, f"{where}.{index}")
    elif type(recorded) is not type(answer) or recorded != answer:
        yield f"{where}: {answer!r} instead of {recorded!r}"


def _no_matter(key: str, recorded: Any, answer: Any) -> bool:
    """Whether two values of a field are the same for our purpose; another type never is."""
    if type(recorded) is not type(answer):
        return False
    if key in PROGRESS:
        return bool(abs(recorded - answer) <= PROGRESS_PER_CENT)
    if key in COUNTED:
        return bool(abs(recorded - answer) <= COUNTED_FRACTION * max(recorded, answer))
    return key in NO_MATTER


def _set(word: str, keys: set[str]) -> str:
    return f" {word} {', '.join(sorted(keys))}" if keys else ""


def _short(body: Any) -> str:
    if isinstance(body, dict) and "kind" in body:
        return f"{body['kind']} {body.get('message') or body.get('details')}"
    return str(body)[:160]
