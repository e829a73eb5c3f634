"""NNI's command line with our patches, as a program: ``python -m syno_nni.nas.nnictl create --config FILE.yml``.

It wants the environment of :func:`~.manager.manager_environment`.
"""
from __future__ import annotations

import os
import sys

from syno_nni.errors import ConfigError
from syno_nni.text import LONGEST_ERROR, cell, one_line, shorten

from . import patches
from .manager import check_node

_STARTING = ('create', 'resume', 'view')


def main() -> None:
    """Run one command of ``nnictl``; what cannot be is one line on stderr and status 1."""
    host = os.environ.get('SYNO_NNI_BIND', '')
    try:
        with patches.nnictl(os.environ.get('SYNO_NNI_TOKEN', ''), host) as complaints:
            if sys.argv[1:2] and sys.argv[1] in _STARTING:
                check_node()
            if sys.argv[1:2] and sys.argv[1] in ('resume', 'view'):
                _check_known(sys.argv[2:])
            from nni.tools.nnictl.nnictl import parse_args
            sys.argv[0] = 'nnictl'
            parse_args()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # what the client of the manager raises, and whatever else NNI did not think of
        sys.exit(shorten(one_line(f'error: {type(error).__name__}: {error}'), LONGEST_ERROR))
    if complaints:
        sys.exit(1)


def _check_known(words: list[str]) -> None:
    """Raise ConfigError if no experiment has the id that is given: NNI 3.0 fails with an exception of its own."""
    from nni.tools.nnictl.config_utils import Experiments
    known = Experiments().get_all_experiments()
    if words and not any(word in known or word in ('-h', '--help') or word.startswith(('-e', '--e')) for word in words):
        raise ConfigError(f'there is no experiment {cell(" ".join(words), 80)}; `nnictl experiment list --all` lists them')


if __name__ == '__main__':
    main()
