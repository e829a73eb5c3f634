"""NNI's command line with our patches, as a program: ``python -m syno_nni.nas.nnictl create --config FILE.yml``.

It wants the environment of :func:`~.manager.manager_environment`.
"""
from __future__ import annotations

import os
import sys

from syno_nni.errors import SynoError

from . import patches
from .manager import check_node

_STARTING = ('create', 'resume', 'view')


def main() -> None:
    """Run one command of ``nnictl``; what cannot be is one line on stderr and status 1."""
    host = os.environ.get('SYNO_NNI_BIND', '')
    try:
        with patches.nnictl(os.environ.get('SYNO_NNI_TOKEN', ''), host):
            if sys.argv[1:2] and sys.argv[1] in _STARTING:
                check_node()
            from nni.tools.nnictl.nnictl import parse_args
            sys.argv[0] = 'nnictl'
            parse_args()
    except (SynoError, OSError, RuntimeError, ValueError, AssertionError) as error:
        # Among them what the client of the manager raises; NNI has logged it, with what the manager and the tuner said.
        sys.exit(f'error: {type(error).__name__}: {error}')


if __name__ == '__main__':
    main()
