"""A JSON file of earlier measurements: a hint, so that nothing about it may fail; it only costs the measurement again."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from syno_nni.atomic import write_whole


def read(path: Path) -> dict[str, Any]:
    """What the file remembers; nothing if it cannot be read."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def remember(path: Path, key: str, value: Any) -> None:
    """Add an entry. The file is replaced as a whole; one that cannot be written stays as it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({**read(path), key: value}))
    except OSError:
        pass
