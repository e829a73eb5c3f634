"""Files that readers see as they were or as they are to be, never in between."""
from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file, or make it, with the permissions of any new file. Text is written as UTF-8. It is on disk on return.

    Raises:
        OSError: it cannot be written. What was there stays, and nothing is left beside it.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f'.{path.name[:100]}.{secrets.token_hex(6)}')
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(file, 'wb') as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
