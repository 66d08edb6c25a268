import torch
from torch import nn

from medmim.stages.evaluate.case_scores import MergedClasses, merged_boxes, with_evaluated_classes
from medmim.stages.evaluate.class_matching import match_classes

BOX = [0.0, 0.0, 0.0, 4.0, 4.0, 1.0]


def test_merged_classes_have_the_sum_of_their_probabilities():
    logits = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    merged = MergedClasses(nn.Identity(), [[0, 3], [1, 2]])(logits).softmax(dim=1)
    own = logits.softmax(dim=1)
    torch.testing.assert_close(merged[:, 1], own[:, 1] + own[:, 2])


def test_of_overlapping_boxes_of_merged_classes_the_best_remains():
    matching = match_classes(["a", "b", "c"], ["x"], label_map=["a=x", "b=x", "c="])
    found = [["a", 0.4, *BOX], ["b", 0.9, *BOX], ["c", 1.0, *BOX], ["a", 0.3, 9.0, 9.0, 0.0, 12.0, 12.0, 1.0]]
    assert [box[:2] for box in merged_boxes(found, matching)] == [["x", 0.9], ["x", 0.3]]


def test_cases_of_a_class_that_is_left_out_are_not_scored():
    import tiny

    cases = [tiny.row(f"p{number}").model_copy(update={"target": name}) for number, name in enumerate("ab")]
    kept = with_evaluated_classes("classify", cases, {"a": "x", "b": None})
    assert [case.target for case in kept] == ["x"]
