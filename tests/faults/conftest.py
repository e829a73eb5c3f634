from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..testing.command import Commands


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Commands]:
    """Starts ``syno-nni`` with the toy space; what is left in the end is ended."""
    commands = Commands(tmp_path)
    yield commands
    commands.end()
