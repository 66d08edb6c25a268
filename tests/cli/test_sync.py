"""`medmim sync`: a server must be given."""

import pytest
from command_line import assert_one_line_error

from medmim.tracking.mlflow_store import Store


@pytest.fixture
def recorded(home):
    Store(home).begin(experiment="e", name="n", tags={"stage": "pretrain"}).finish("FINISHED")


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "--to: expected the address of an MLflow server; pass it, or set MLFLOW_TRACKING_URI"),
        (["--to", "mlruns"], 2, "--to: expected the address of an MLflow server, such as https://"),
    ],
)
def test_without_an_address_the_option_is_named(monkeypatch, words, code, message):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert_one_line_error(["sync", *words], code, message)
