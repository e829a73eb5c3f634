"""For `make docs`: what docstrings write in reStructuredText, in Markdown. mkdocs.yml names this file."""
from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r':(?:py:)?(?:class|func|meth|mod|attr|data|exc|obj):`([^`]+)`')
_TABLE = re.compile(r'^( *)(=+(?: +=+)+)\n(.*?\n)\1\2$', re.DOTALL | re.MULTILINE)


def markdown(text: str) -> str:
    """Roles become code, ``::`` before an indented block a colon, and simple tables stay as they are, in a fixed font."""
    text = _ROLE.sub(lambda match: f'`{_last(match[1])}`', text)
    text = _TABLE.sub(lambda match: f'{match[1]}```text\n{match[0]}\n{match[1]}```', text)
    return re.sub(r'(\S)::$', r'\1:', text, flags=re.MULTILINE)


def _last(name: str) -> str:
    """``~.module.name`` and ``~package.name`` are shown as ``name``."""
    return name.rpartition('.')[2] if name.startswith('~') else name.lstrip('.')


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def on_page_content(html: str, **kwargs: Any) -> str:
    """Files by their place in the repository: `make docs` reads them from a build of the package (a hook of mkdocs)."""
    return re.sub(r'build/docs/(syno_nni/(?=model_zoo/|search_spaces/|strategies/))?', '', html)
