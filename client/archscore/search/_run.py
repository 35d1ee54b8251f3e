"""Runs searches: proposals go out as answers come in, and what is known is kept on disk.

A search is the same whatever the order of the answers and however many are under way, because proposal n is made when
the results up to n - batch have been told, in the order of the proposals, and none of those that came early.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from archscore.errors import ArchitectureError, UsageError
from archscore.search._checkpoint import Checkpoint, RunDirectory
from archscore.search._domain import Domain, domain_of
from archscore.search._history import History
from archscore.search._objective import objective_of
from archscore.search._pipeline import Pipeline, State
from archscore.search._record import Record, outcome_of
from archscore.search._scorer import Scorer
from archscore.search._screening import Chosen, Screening
from archscore.search._settings import Settings
from archscore.search._strategy import Proposer

if TYPE_CHECKING:
    from archscore._results import Result
    from archscore.v1 import scoring_pb2

OnRecord = Callable[[Record, History], object]

_MAX_IN_FLIGHT: Final = 4


def run_search(
    scorer: Scorer,
    settings: Settings,
    *,
    directory: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_record: OnRecord | None = None,
) -> History:
    """Searches.

    Nothing is asked twice, by canonical encoding. With a directory the search can go on from its last checkpoint,
    whatever ended it; one is made after every batch and at the end, also when that is an error or Ctrl-C.

    Args:
        scorer: what is asked, such as an `archscore.Client`.
        settings: what to search for.
        directory: where log and checkpoints go; None keeps nothing.
        resume: whether to go on with the search that is there, if there is one.
        overwrite: whether to put this search in the place of another that is there.
        on_record: called with each evaluation and all so far.

    Returns:
        All that was evaluated.

    Raises:
        UsageError: the settings make no sense, the directory holds another search, or (NothingFoundError) no
            architecture within the constraints was found.
        ArchscoreError: the request as a whole failed, or an answer did not come for a reason that is not the
            architecture's: the search can be resumed.
    """
    # They need protobuf, which whoever only reads settings should not have to load.
    from archscore._requests import config_message

    config = config_message(settings.config)
    domain = domain_of(settings.space, settings.constraints, config)
    screens = settings.strategy.screens if isinstance(settings.strategy, Screening) else ()
    objectives = [objective_of(scorer, proxies) for proxies in (*screens, settings.proxies)]
    history = History(settings, objectives)
    keeper = None
    if directory is not None:
        keeper = RunDirectory(directory)
        if keeper.used and not resume and not overwrite:
            raise UsageError(
                f"{directory} holds a search already: resume it (--resume), overwrite it (--force), or name another "
                "directory"
            )
    search = _Search(scorer, settings, domain, history, keeper, config, on_record)
    if keeper is None:
        search.begin()
    elif resume and (found := keeper.resume(settings.to_json())) is not None:
        search.resume(*found)
    else:
        keeper.begin()
        search.begin()
    search.run()
    return history


class _Search:
    """A search at work."""

    def __init__(
        self,
        scorer: Scorer,
        settings: Settings,
        domain: Domain,
        history: History,
        keeper: RunDirectory | None,
        config: scoring_pb2.EvaluationConfig | None,
        on_record: OnRecord | None,
    ) -> None:
        self._scorer = scorer
        self._settings = settings
        self._domain = domain
        self._history = history
        self._keeper = keeper
        self._config = config
        self._on_record = on_record
        self._pipeline: Pipeline
        self._saved = 0
        self._fingerprint = b""
        self._earlier_seconds = 0.0
        self._began = time.monotonic()

    def begin(self) -> None:
        """Starts with the first stage."""
        self._enter(0, 0, State.initial(self._settings.seed))

    def resume(self, checkpoint: Checkpoint, records: list[Record]) -> None:
        """Takes up where a checkpoint is."""
        if checkpoint.stage and checkpoint.settings["evaluations"] != self._settings.evaluations:
            raise UsageError("a screening that is past its first stage cannot have more evaluations")
        for record in records:
            self._history.add(record)
        self._history.fingerprints = list(checkpoint.fingerprints)
        self._earlier_seconds = checkpoint.seconds
        self._saved = len(records)
        state = State(
            made=len(records) - checkpoint.stage_started + len(checkpoint.proposed),
            rng_state=checkpoint.rng_state,
            rejected=checkpoint.rejected,
            repeated=checkpoint.repeated,
        )
        self._enter(checkpoint.stage, checkpoint.stage_started, state, checkpoint.proposed)

    def run(self) -> None:
        """Runs the stage that is under way, and those after it."""
        try:
            self._run_stage()
            while self._pipeline.stage + 1 < len(self._history.objectives):
                state = self._pipeline.state._replace(made=0)
                self._enter(self._pipeline.stage + 1, len(self._history.records), state)
                self._run_stage()
        except BaseException:  # Ctrl-C, too
            self._save()
            raise

    def _enter(self, stage: int, started: int, state: State, proposed: Sequence[tuple[str, int | None]] = ()) -> None:
        """Makes a stage the one that is under way."""
        settings, history = self._settings, self._history
        proposer: Proposer
        if stage == 0:
            total = settings.evaluations
            proposer = settings.strategy.start(self._domain, history.objectives[0], settings.batch)
        else:
            assert isinstance(settings.strategy, Screening)  # noqa: S101 -- no other has more than one stage
            before = [record for record in history.records[:started] if record.stage == stage - 1]
            chosen = settings.strategy.pass_on(before, history.objectives[stage - 1])
            total = len(chosen)
            proposer = Chosen(self._domain, chosen)
        self._pipeline = Pipeline(
            self._domain,
            proposer,
            history.records,
            stage=stage,
            started=started,
            total=total,
            lag=settings.batch,
            state=state,
            proposed=proposed,
        )
        history.enter_stage(stage, started, total)

    def _run_stage(self) -> None:
        batch = self._settings.batch
        chunk = max(1, batch // _MAX_IN_FLIGHT)
        results = self._scorer.score_many(
            self._pipeline,
            self._history.objective.proxies,
            space=self._settings.space,
            config=self._config,
            chunk_size=chunk,
            max_in_flight=batch // chunk,
            ordered=True,
        )
        with contextlib.closing(results):
            for result in results:
                self._take(result)
                if len(self._history.records) - self._saved >= batch:
                    self._save()
        self._history.exhausted = self._pipeline.exhausted
        self._save()

    def _take(self, result: Result) -> None:
        """Makes a record of a result."""
        if result.error is not None and not isinstance(result.error, ArchitectureError):
            raise result.error  # that it did not come in time says nothing of the architecture
        history, pipeline = self._history, self._pipeline
        proposal, measures = pipeline.oldest
        scores, outcome, detail = outcome_of(result, history.objective.proxies)
        record = Record(
            index=len(history.records),
            stage=pipeline.stage,
            architecture=proposal.architecture.format(),
            parent=proposal.parent,
            measures=measures,
            scores=scores,
            outcome=outcome,
            detail=detail,
        )
        self._note_fingerprint(result, record.index)
        history.add(record)
        pipeline.forget_answered()
        self._tally()
        if self._on_record is not None:
            self._on_record(record, history)

    def _note_fingerprint(self, result: Result, index: int) -> None:
        if result.evaluation is None:
            return
        serialized = result.evaluation.fingerprint.SerializeToString(deterministic=True)
        if serialized == self._fingerprint:  # as good as always
            return
        self._fingerprint = serialized
        from google.protobuf import json_format

        fingerprint = json_format.MessageToDict(result.evaluation.fingerprint, preserving_proto_field_name=True)
        known = self._history.fingerprints
        if not known or known[-1][1] != fingerprint:
            known.append((index, fingerprint))

    def _tally(self) -> None:
        """Copies into the history what others count."""
        self._history.rejected, self._history.repeated = self._pipeline.state.rejected, self._pipeline.state.repeated
        self._history.seconds = self._earlier_seconds + time.monotonic() - self._began

    def _save(self) -> None:
        self._tally()
        if self._keeper is None or not self._history.records:  # A search that never got anywhere leaves no trace.
            return
        history, pipeline = self._history, self._pipeline
        count = len(history.records)
        checkpoint = Checkpoint(
            settings=self._settings.to_json(),
            records=count,
            log_bytes=0,
            stage=pipeline.stage,
            stage_started=pipeline.started,
            proposed=pipeline.proposed,
            rng_state=pipeline.state.rng_state,
            rejected=pipeline.state.rejected,
            repeated=pipeline.state.repeated,
            fingerprints=history.fingerprints,
            seconds=history.seconds,
        )
        self._keeper.save(checkpoint, history.records[self._saved : count])
        self._saved = count
