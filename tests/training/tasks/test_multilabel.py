"""Tests of the classes that the multi-label task uses, of its loss and of its figure."""

import pytest
import tiny
import torch

from medmim.data.dataset.manifest import Dataset, DatasetInfo
from medmim.errors import DataError
from medmim.training.tasks.multilabel import MultiLabel, known_labels, multilabel_figure

VALUES = [
    {"mass": 1.0, "cyst": 0.0, "scar": -1.0},
    {"mass": 0.0, "cyst": -1.0, "scar": 0.0},
    {"scar": -1.0},
    {},
]
CASES = [tiny.row(f"p{n}").model_copy(update={"targets": own}) for n, own in enumerate(VALUES)]


def test_uncertain_and_unstated_classes_are_unknown():
    assert [known_labels(case) for case in CASES] == [{"mass": 1, "cyst": 0}, {"mass": 0, "scar": 0}, {}, {}]
    assert [MultiLabel().usable(case) for case in CASES] == [True, True, False, False]


def test_only_classes_that_a_training_image_shows_are_trained(tmp_path):
    dataset = Dataset(tmp_path, DatasetInfo(name="d"), tuple(CASES))
    assert MultiLabel().names(dataset, CASES, None) == {0: "mass"}
    with pytest.raises(DataError, match="no training image shows a class"):
        MultiLabel().names(dataset, CASES[1:], None)


def test_a_class_without_positive_cases_is_named():
    assert MultiLabel().unscored(CASES, ["mass", "scar"]) == [
        "class scar: none of 1 image with a known value shows it: "
        "it has no score and is left out of the means"
    ]


class Fixed(torch.nn.Module):
    """A network with the same scores for all images."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, images):
        return self.scores


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_unknown_classes_have_no_part_in_the_loss(mixup):
    scores = torch.tensor([[2.0, 9.0], [-1.0, 0.5]], requires_grad=True)
    batch = {"image": torch.zeros(2, 1, 4, 4), "target": torch.tensor([[1.0, -1.0], [0.0, 1.0]])}
    torch.manual_seed(1)
    loss = MultiLabel(mixup=mixup).loss(Fixed(scores), batch)
    loss.backward()
    assert float(scores.grad[0, 1]) == 0
    if not mixup:
        expected = torch.nn.functional.softplus(torch.tensor([-2.0, -1.0, -0.5])).mean()
        assert float(loss.detach()) == pytest.approx(float(expected))


@pytest.mark.parametrize("count", [1, 12])
def test_classes_are_drawn_also_without_positive_cases(count):
    names = [f"c{n}" for n in range(count)]
    rows = [
        {
            "labels": dict.fromkeys(names, value) | {"c0": 0},
            "probabilities": dict.fromkeys(names, 0.4),
            "found": [],
        }
        for value in (0, 1)
    ]
    assert multilabel_figure(rows, names, title="test").startswith(b"\x89PNG")
