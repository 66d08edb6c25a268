"""The run that a word names: by its id, by the beginning of its id, or by the id of the run it is a copy of.

Nothing here imports MLflow, so that the command line refuses a mistyped id at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from medmim.errors import RunError, counted, did_you_mean

ORIGIN = "medmim.run"  # tag of a copy: id of the original run
SHOWN = 8  # characters of an id
_CANDIDATES = 5  # listed in a message
_ALIKE = 0.85  # one of eight characters is wrong
_IDS = (
    "(SELECT run_uuid AS id, run_uuid FROM runs UNION ALL "
    f"SELECT value, run_uuid FROM tags WHERE key = '{ORIGIN}')"
)
_TAG = "coalesce((SELECT value FROM tags WHERE key = '{}' AND tags.run_uuid = runs.run_uuid), '')"
RUNS_NAMED = (  # with the beginning of an id as its value
    f"SELECT id, runs.run_uuid, {_TAG.format('stage')}, {_TAG.format('task')} FROM {_IDS} "
    "JOIN runs USING (run_uuid) WHERE lifecycle_stage = 'active' AND substr(id, 1, length(?1)) = ?1 "
    "ORDER BY id != runs.run_uuid, start_time DESC"
)
Query = Callable[..., Iterable[tuple[Any, ...]]]  # SQL and its values to rows


@dataclass(frozen=True)
class NamedRun:
    """A run that a word may name.

    Attributes:
        id: that begins with the word: of the run, or of its original.
        task: of a fine-tuning; else empty.
    """

    id: str
    run_id: str
    stage: str
    task: str = ""

    def __str__(self) -> str:
        command = " ".join(filter(None, ("medmim", self.stage, self.task)))
        return f"{self.id[:SHOWN]} of `{command}`"


@dataclass(frozen=True)
class RunOption:
    """An option, or a command, where a run is named.

    Attributes:
        others: what may be given instead of a run, with the word `or`.
        stages: of the runs that may be given.
        tasks: of the fine-tunings that may be given, the usual one first; empty: all.
        models: registered models that may be given too.
    """

    name: str
    others: str = ""
    stages: Sequence[str] = ("pretrain", "finetune")
    tasks: Sequence[str] = ()
    models: Sequence[str] = ()

    def only(self, word: str, candidates: Iterable[NamedRun], known: Callable[[], Iterable[str]]) -> str:
        """Return the id of the only run that the word names.

        Args:
            word: an id or its beginning.
            candidates: runs whose id begins with it; see `candidates_of`.
            known: returns the ids of all runs, from which a suggestion is made.

        Raises:
            RunError: if there is none, more than one, or one of another stage or task.
        """
        found = list(candidates)
        fitting = [one for one in found if self._takes(one)]
        own = [one for one in fitting if one.id == one.run_id] or fitting
        chosen = {one.id: one.run_id for one in reversed(own)}  # the newest of several copies
        if len(chosen) == 1:
            return chosen.popitem()[1]
        if chosen:
            raise self._several(word, [one for one in own if chosen[one.id] == one.run_id])
        if not found:
            raise self.unknown(word, known())
        raise RunError(f"{self._expected(word)}, got run {found[0]}; see `medmim runs`")

    def unknown(self, word: str, known: Iterable[str]) -> RunError:
        """Return the error for a word that names no run; `known` are the ids of all runs."""
        length = max(SHOWN, len(word))
        alike = difflib.get_close_matches(word, {one[:length] for one in known}, n=1, cutoff=_ALIKE)
        hint = did_you_mean(word, alike or self.models) if alike or self.models else ""
        models = " and `medmim models`" if self.models else ""
        return RunError(
            f"{self._expected(word)}, got the beginning of no run id in this home folder{hint}; see "
            f"`medmim runs`{models}, or set MEDMIM_HOME to the folder that contains it"
        )

    def _several(self, word: str, found: Sequence[NamedRun]) -> RunError:
        listed = ", ".join(map(str, found[:_CANDIDATES]))
        rest = f" and {len(found) - _CANDIDATES} more" if len(found) > _CANDIDATES else ""
        return RunError(
            f"{self._expected(word)}, got the beginning of {counted(len(found), 'run id')}: {listed}{rest}; "
            "give more characters, see `medmim runs`"
        )

    def _expected(self, word: str) -> str:
        commands = [" ".join(("medmim", stage, *self.tasks[:1])) for stage in self.stages]
        return f"{self.name} {word}: expected {self.others}a run of `{'` or `'.join(commands)}`"

    def _takes(self, one: NamedRun) -> bool:
        return one.stage in self.stages and (not self.tasks or one.task in self.tasks)


INIT = RunOption("--init", "`scratch`, a weights file or ")
MODEL = RunOption("--model", "a registered model, a weights file or ")
COMPARE = RunOption("compare", stages=("finetune",))


def candidates_of(query: Query, word: str) -> list[NamedRun]:
    """Return the runs of a store whose id, or that of their original, begins with a word, newest first."""
    return [NamedRun(*row) for row in query(RUNS_NAMED, word)]
