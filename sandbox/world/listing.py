"""
Lists: which objects are in them, and how they are read page by page.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from sandbox.world.history import Stored
from sandbox.world.kinds import Kind
from sandbox.world.selectors import FieldTest, LabelTest, field_test, label_test
from sandbox.world.status import bad_request


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a list."""

    kind: Kind
    api_version: str
    items: tuple[bytes, ...]
    resource_version: int
    continue_token: str
    remaining: int | None
    """How many items follow; None on the last page, and where a selector makes that unknown."""

    def metadata(self) -> dict[str, Any]:
        """Return what the list says of itself."""
        metadata: dict[str, Any] = {"resourceVersion": str(self.resource_version), "continue": self.continue_token}
        if self.remaining is not None:
            metadata["remainingItemCount"] = self.remaining
        return metadata

    def raw(self) -> bytes:
        """Return the whole list as JSON."""
        head = {"kind": self.kind.list_kind, "apiVersion": self.api_version, "metadata": self.metadata()}
        return msgspec.json.encode(head)[:-1] + b',"items":[' + b",".join(self.items) + b"]}"


def selection(namespace: str | None, label_selector: str, field_selector: str) -> Callable[[Stored], bool]:
    """Make the test of what a list or a watch shows. Raises StatusError 400 for a selector that is none."""
    labels: LabelTest = label_test(label_selector)
    fields: FieldTest = field_test(field_selector)

    def admits(stored: Stored) -> bool:
        inside = not namespace or stored.namespace == namespace
        return inside and labels(stored.labels) and fields(stored.name, stored.namespace)

    return admits


def token(key: str, resource_version: int) -> str:
    """Write a continue token: go on after a key, in the list as it was at a resourceVersion."""
    content = msgspec.json.encode({"v": "meta.k8s.io/v1", "rv": resource_version, "start": key})
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def parse_token(text: str) -> tuple[str, int]:
    """Read a continue token. Raises StatusError 400."""
    try:
        content = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return str(content["start"]), int(content["rv"])
    except (binascii.Error, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise bad_request("invalid continue token: continue key is not valid") from error
