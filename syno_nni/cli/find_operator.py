"""Finding the operator that a word on the command line means."""
from __future__ import annotations

import inspect
import re
from contextlib import suppress
from pathlib import Path

from syno_nni import model_zoo
from syno_nni.errors import FormulaError, JournalError
from syno_nni.files import show_path
from syno_nni.operator import Operator, classics
from syno_nni.run.candidate import is_setting
from syno_nni.run.directory import load_run
from syno_nni.run.state import RunState
from syno_nni.text import did_you_mean

_ID = re.compile(r'[0-9a-f]{4,64}')


def find_operator(text: str, run_dir: Path | None = None) -> tuple[Operator, str]:
    """The operator that ``text`` means, and where it was found.

    ``text`` is a formula, the name of an operator of the zoo or of :mod:`syno_nni.operator.classics`, or an operator's id: of
    the zoo, or of a candidate, where its beginning is enough, in ``run_dir`` or else in all the runs of ``runs/``.

    Raises:
        FormulaError: a formula is malformed, or nothing is found; close names are suggested.
        JournalError: ``run_dir`` cannot be read.
    """
    text = text.strip()
    if '=' in text or '[' in text:
        return Operator.parse(text), ''
    entry = model_zoo.find(text)
    if entry is not None:
        return entry.operator, f'{entry.name} in the model zoo'
    known = classic_names()
    if text in known:
        return getattr(classics, text)(), f'syno_nni.operator.classics.{text}'
    directories = [run_dir] if run_dir is not None else _runs()
    if _ID.fullmatch(text):
        for directory in directories:
            operator = _in_run(text, _load(directory, required=run_dir is not None))
            if operator is not None:
                return operator, f'run {directory}'
    hint = did_you_mean(text, [*known, *model_zoo.names()], 3, cutoff=0.5, otherwise='`syno-nni zoo` lists the names')
    places = ', '.join(map(show_path, directories[:3])) or 'runs/ (name another run directory with --run-dir)'
    raise FormulaError(f'no operator {text!r:.80} among the zoo, the classic layers and the candidates of {places}; '
                       f'{hint}')


def classic_names() -> list[str]:
    """The constructors of :mod:`syno_nni.operator.classics`, all of which have defaults."""
    return [name for name, value in vars(classics).items()
            if inspect.isfunction(value) and value.__module__ == classics.__name__ and not name.startswith('_')]


def _runs() -> list[Path]:
    """The runs below ``runs/``, newest first."""
    found = {}
    for path in Path('runs').glob('*/journal.jsonl'):
        with suppress(OSError):  # removed meanwhile
            found[path.parent] = path.parent.stat().st_mtime
    return sorted(found, key=lambda directory: found[directory], reverse=True)


def _load(run_dir: Path, required: bool) -> RunState:
    try:
        return load_run(run_dir)
    except JournalError:
        if required:
            raise
        return RunState()


def _in_run(text: str, state: RunState) -> Operator | None:
    formulas = (formula for candidate in state.operators for formula in candidate.sample.values()
                if '=' in formula and not is_setting(formula))
    return next((op for op in map(Operator.parse, formulas) if op.id.startswith(text)), None)
