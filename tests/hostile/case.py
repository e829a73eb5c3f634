"""What a hostile case is: files, the command that reads them, and whether it must be refused."""
from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Content = bytes | str | tuple[str, str | int]
"""Of a file: its bytes or text; or ``('fifo', '')``, ``('socket', '')``, ``('folder', '')``, ``('link', TARGET)``,
``('sparse', BYTES)``, ``('mode', OCTAL)``."""


@dataclass(frozen=True)
class Case:
    """A command in a folder of its own.

    Attributes:
        kind: the generator that made it.
        argv: of ``syno-nni``; or, first, the name of a reader in ``server.READERS`` and its arguments.
        files: what lies in the folder, by relative path.
        refused: whether it must fail; None where chance decides whether it is hostile at all.
        debug: whether a traceback was asked for.
    """
    kind: str
    argv: tuple[str, ...]
    files: Mapping[str, Content] = field(default_factory=dict)
    refused: bool | None = True
    debug: bool = False

    def write(self, folder: Path) -> None:
        """Make the files of the case in ``folder``, a new one."""
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, tuple):
                _special(path, *content)
            else:
                path.write_bytes(content.encode(errors='surrogatepass') if isinstance(content, str) else content)


def _special(path: Path, sort: str, argument: str | int) -> None:
    match sort:
        case 'fifo':
            os.mkfifo(path)
        case 'folder':
            path.mkdir()
        case 'link':
            path.symlink_to(str(argument))
        case 'sparse':
            with path.open('wb') as file:
                file.truncate(int(argument))
        case 'socket':
            before = os.getcwd()
            os.chdir(path.parent)  # the path of a socket has at most 107 bytes
            try:
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind('s')
                os.rename('s', path.name)
            finally:
                os.chdir(before)
        case _:
            raise ValueError(sort)
