"""Something that makes a file when it is unpickled without restrictions."""
from __future__ import annotations

from pathlib import Path


class Canary:
    """Unpickled freely, it makes the file ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)
