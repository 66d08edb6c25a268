import pytest

from medmim.errors import UsageError
from medmim.stages.evaluate.class_matching import match_classes


def test_classes_match_by_name_whatever_their_case_and_order():
    found = match_classes(["core", "rim"], ["Rim", "Core"])
    assert found.names == ("Core", "Rim")
    assert found.of_model == {"core": "Core", "rim": "Rim"}


def test_a_mismatch_lists_the_classes_of_both_sides_and_the_remedy():
    expected = r"model \(core, rim\).*data \(core, shell\).*--label-map"
    with pytest.raises(UsageError, match=expected):
        match_classes(["core", "rim"], ["core", "shell"])


def test_names_made_from_numbers_match_only_within_the_training_dataset():
    with pytest.raises(UsageError, match="do not match"):
        match_classes(["class 1"], ["class 1"])
    assert match_classes(["class 1"], ["class 1"], same_source=True).names == ("class 1",)
    assert match_classes(["class 1"], ["class 1"], label_map=["class 1=class 1"]).names == ("class 1",)


def test_several_classes_of_the_model_stand_for_one_of_the_data():
    found = match_classes(["glioma", "other"], ["tumour"], label_map=["glioma=tumour", "other=tumour"])
    assert found.names == ("tumour",)
    assert found.renamed


def test_several_classes_of_the_data_are_merged_into_one_of_the_model():
    found = match_classes(["ball"], ["core", "rim"], label_map=["ball=core", "ball=rim"])
    assert found.names == ("ball",)
    assert found.of_data == {"core": "ball", "rim": "ball"}
    assert not found.renamed


def test_an_empty_side_leaves_a_class_out():
    found = match_classes(["core", "rim"], ["core", "shell"], label_map=["rim=", "=shell"])
    assert found.names == ("core",)
    assert found.of_model["rim"] is None
    assert found.of_data["shell"] is None


def test_classes_that_no_case_shows_are_accepted_where_cases_show_few():
    assert match_classes(["a", "b"], ["a"], subset=True).names == ("a", "b")
    with pytest.raises(UsageError, match="do not match"):
        match_classes(["a", "b"], ["a"])


@pytest.mark.parametrize("text", ["core", "cor=rim", "core=lesion", "="])
def test_an_unknown_pair_is_rejected(text):
    with pytest.raises(UsageError, match="expected MODEL=DATA"):
        match_classes(["core"], ["rim"], label_map=[text])


def test_groups_merged_on_both_sides_are_rejected():
    with pytest.raises(UsageError, match="merged on one side only"):
        match_classes(["a", "b"], ["c", "d"], label_map=["a=c", "a=d", "b=d"])
