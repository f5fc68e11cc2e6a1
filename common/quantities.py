"""
Sizes as Kubernetes writes them: "500Gi", "1.5T", or a bare number of bytes.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Final

_BINARY: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL: Final = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_SUFFIXES: Final = {**_BINARY, **_DECIMAL}
_LARGEST: Final = 2**63 - 1


def parse_bytes(quantity: str | int) -> int:
    """
    Read a size in bytes, rounded up.

    kubernetes_asyncio has a parser too, but importing it loads its whole client, and the pure part of the product
    must not. Raises ValueError for what is no size, is negative, or exceeds 63 bits.
    """
    text = str(quantity).strip()
    number, factor = text, 1
    for suffix, value in _SUFFIXES.items():
        if text.endswith(suffix):
            number, factor = text[: -len(suffix)], value
            break
    try:
        exact = Decimal(number) * factor
    except InvalidOperation as error:
        raise ValueError(f"{text[:64]!r} is not a size: write it like 500Gi, 1.5T or 1073741824") from error
    if not exact.is_finite() or exact < 0 or exact > _LARGEST:
        raise ValueError(f"{text[:64]!r} is not a size between 0 and 8Ei")
    return int(exact.to_integral_value(rounding="ROUND_CEILING"))


def format_bytes(size: int) -> str:
    """Write a size for a person: "200Gi", "1.5Ti", "512"."""
    for suffix in reversed(_BINARY):
        if size >= _BINARY[suffix]:
            return f"{size / _BINARY[suffix]:.4g}{suffix}"
    return str(size)
