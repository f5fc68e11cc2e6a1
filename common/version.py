"""
Which version of the product this is, as it is told to API servers, to Prometheus and to people.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """Return the version of the installed distribution; "0" in a checkout that was never installed."""
    try:
        return metadata.version("couchestor")
    except metadata.PackageNotFoundError:
        return "0"
