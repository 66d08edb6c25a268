import pytest

from medmim.errors import UsageError
from medmim.stages.evaluate.chosen_metrics import choose_metrics


def rows(*metrics):
    return [{"metric": name, "value": 0.5} for name in metrics]


def selected(kind, main, names, *metrics):
    return [row["metric"] for row in choose_metrics(kind, main, names).select(rows(*metrics))]


def test_chosen_metrics_come_in_their_order_after_the_main_one_with_those_of_each_class():
    every = ("ap50", "ap50_a", "ap50_95", "ap50_95_a", "f1_a", "f1", "ap50_any", "froc")
    assert selected("detect", "ap50", ["f1", "ap50_95"], *every) == [
        *("ap50", "ap50_a", "f1_a", "f1", "ap50_95", "ap50_95_a")
    ]
    assert selected("detect", "ap50", [], *every) == list(every)
    classes = ("macro_f1", "f1_a", "accuracy", "patient_macro_f1", "patient_f1_a", "patient_accuracy")
    assert selected("classify", "macro_f1", ["accuracy"], *classes) == [
        *("macro_f1", "patient_macro_f1", "accuracy", "patient_accuracy")
    ]


def test_the_first_metric_of_label_maps_is_the_main_one_if_every_case_has_it():
    assert choose_metrics("segment", "dice", ["cldice", "dice"]).main == "cldice"
    assert choose_metrics("segment", "dice", ["hd95_mm"]).main == "dice"
    assert choose_metrics("classify", "macro_f1", ["accuracy"]).main == "macro_f1"


def test_a_metric_that_the_task_lacks_is_refused():
    with pytest.raises(UsageError, match="unknown metric of regress 'dice'"):
        choose_metrics("regress", "r2", ["dice"])
