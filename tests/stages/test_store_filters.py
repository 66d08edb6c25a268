"""The database selects, sorts and counts the runs and models to list."""

import pytest

from medmim.stages.store_filters import ModelFilter, RunFilter
from medmim.stages.store_listing import count_models, count_runs, list_models, list_runs, model_names


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ({}, ["control", "tuned", "pre"]),
        ({"task": "pretrain"}, ["pre"]),
        ({"task": "segment", "arm": "mesh"}, ["tuned"]),
        ({"dataset": "scans", "state": "failed"}, ["control"]),
        ({"study": "other"}, []),
        ({"sort": "score"}, ["tuned", "control", "pre"]),
        ({"sort": "arm", "limit": 1}, ["control"]),
    ],
)
def test_the_database_filters_sorts_and_limits_runs(stored, words, names):
    home, *ids = stored
    names_of = dict(zip(ids, ("pre", "tuned", "control"), strict=True))
    assert [names_of[one.run_id] for one in list_runs(home, RunFilter(**words))] == names
    assert count_runs(home, RunFilter(**{**words, "limit": None})) >= len(names)


@pytest.mark.parametrize(
    ("words", "count"),
    [({"model": "scans-segment", "version": "1"}, 1), ({"alias": "champion"}, 0), ({"newest": True}, 1)],
)
def test_the_database_filters_models(stored, words, count):
    assert len(list_models(stored[0], ModelFilter(**words))) == count
    assert (count_models(stored[0]), model_names(stored[0])) == (1, ["scans-segment"])
