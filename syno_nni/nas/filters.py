"""Rejecting candidates by their size before a trial is started, as a middleware of NNI.

``Chain(strategy, ProfilerFilter(...))`` works with any NNI strategy; ours record the reason in the journal.
"""
from __future__ import annotations

from collections.abc import Callable

from nni.mutable import Sample
from nni.nas.profiler import Profiler
from nni.nas.space import ExecutableModelSpace
from nni.nas.strategy.middleware import Filter

from syno_nni.run.candidate import KEEP, Failure


class ProfilerFilter(Filter):
    """Rejects samples by what profilers say of them.

    The sample that keeps every layer always passes: it is what all others are compared with.

    Args:
        profilers: by the name under which their values are reported.
        complaint: from those values to the reason for a rejection, or None. With a
            :class:`~syno_nni.run.candidate.Miss` strategies learn how far the candidate was from the limit, too.
        patience: after how many rejections in a row the search ends.
    """

    def __init__(self, profilers: dict[str, Profiler], complaint: Callable[[dict[str, float]], str | None],
                 patience: int = 200) -> None:
        super().__init__(self._passes, metric_for_invalid=None, patience=patience, retain_history=False)
        self.profilers = profilers
        self.complaint = complaint

    def reason(self, sample: Sample) -> tuple[dict[str, float], str | None]:
        """What the profilers say, and why the sample is rejected, if it is."""
        if all(value == KEEP for value in sample.values()):
            return {}, None
        values = {name: profiler.profile(sample) for name, profiler in self.profilers.items()}
        return values, self.complaint(values)

    def _passes(self, model: ExecutableModelSpace) -> bool:
        values, reason = self.reason(model.sample)
        self.metric_for_invalid = None if reason is None else Failure.rejection(reason, 'size', values).report()
        return reason is None
