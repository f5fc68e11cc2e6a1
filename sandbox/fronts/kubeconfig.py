"""
A kubeconfig for a server of the sandbox: an address, and nothing else that clients need.
"""

from __future__ import annotations

import json
from pathlib import Path


def write_kubeconfig(path: Path, url: str) -> Path:
    """Write it (YAML, of which JSON is a part), and return the path."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": {"server": url}}],
        "users": [{"name": "sandbox", "user": {}}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": "sandbox"}}],
        "current-context": "sandbox",
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path
