"""
JSON merge-patch (RFC 7396), with the one habit in which kube-apiserver departs from it.

The RFC replaces an array by the patch's array as it stands; kube-apiserver also takes the null members out of the
objects in it.
"""

from __future__ import annotations

from typing import Any


def merge(target: Any, patch: Any) -> Any:
    """Return the target with the patch applied; neither is changed, unchanged parts are shared."""
    if not isinstance(patch, dict):
        return without_nulls(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def without_nulls(value: Any) -> Any:
    """Drop null members of objects, also of those in arrays; a null in an array stays."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
