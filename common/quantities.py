"""
Sizes as Kubernetes writes them: "500Gi", "1.5T", or a bare number of bytes.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_BINARY: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL: Final = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_SUFFIXES: Final = {**_BINARY, **_DECIMAL}
_LARGEST: Final = 2**63 - 1
_LONGEST: Final = 64
# Stricter than Decimal, which also takes underscores, any script's digits, NaN, and exponents that overflow.
_FORM: Final = re.compile(rf"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{{1,3}})?)({'|'.join(_SUFFIXES)})?", re.ASCII)


def parse_bytes(quantity: str | int) -> int:
    """
    Read a size in bytes, rounded up.

    kubernetes_asyncio has no parser; that of the synchronous client would bring a second whole client along, and the
    pure part of the product must not even load one.

    Raises ValueError for what is no size, is negative, or exceeds 63 bits.
    """
    text = str(quantity).strip()
    form = _FORM.fullmatch(text) if len(text) <= _LONGEST else None
    if form is None:
        raise ValueError(f"{text[:64]!r} is not a size: write it like 500Gi, 1.5T or 1073741824")
    exact = Decimal(form[1]) * _SUFFIXES.get(form[2], 1)
    if not 0 <= exact <= _LARGEST:
        raise ValueError(f"{text[:64]!r} is not a size between 0 and 8Ei")
    return int(exact.to_integral_value(rounding="ROUND_CEILING"))


def format_bytes(size: int) -> str:
    """Write a size for a person: "200Gi", "1.5Ti", "512"."""
    for suffix in reversed(_BINARY):
        if size >= _BINARY[suffix]:
            return f"{size / _BINARY[suffix]:.4g}{suffix}"
    return str(size)


def counted(count: int, noun: str) -> str:
    """Write a number of things for a person: "1 move", "2 moves"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
