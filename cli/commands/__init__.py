"""
The commands, a module each: its flags, its call, its layout.
"""

from __future__ import annotations

from cli.commands import cancel, explain, migrate, migrations, preview, top

ALL = (top, explain, preview, migrations, migrate, cancel)
