"""What Markdown pages show, for tests that it works."""
from __future__ import annotations

from pathlib import Path


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced code blocks of a page that are of one of the languages; '' is a fence without one. Snippets of files, which
    are tested where they are from, are left out."""
    found: list[str] = []
    inside: list[str] | None = None
    language = ''
    for line in path.read_text(encoding='utf-8').splitlines():
        if not line.startswith('```'):
            if inside is not None:
                inside.append(line)
        elif inside is None:
            language, inside = line.removeprefix('```').strip(), []
        else:
            if language in languages and not any(text.startswith('--8<--') for text in inside):
                found.append('\n'.join(inside) + '\n')
            inside = None
    return found


def commands(path: Path) -> list[str]:
    """The lines that call `syno-nni`, without a prompt."""
    lines = (line.removeprefix('$ ') for block in blocks(path, '', 'console', 'bash') for line in block.splitlines())
    return [line for line in lines if line.startswith('syno-nni ')]
