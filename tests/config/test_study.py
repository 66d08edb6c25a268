import pytest

from medmim import files
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.study import StudySettings, arm_title, seeds_command, settings_of_result, trials_of
from medmim.config.yaml_settings import resolve
from medmim.errors import SettingsError


def cells(**words):
    return trials_of(StudySettings.model_validate(words))


def test_every_combination_is_a_cell_beside_its_control():
    found = cells(masks=["random", "mesh"], ratios=[0.5, 0.7], seeds=[0, 1], folds=[0, 1])
    assert len(found) == (2 * 2 + 1) * 2 * 2
    assert sum(cell.arm == "scratch" for cell in found) == 4
    assert {cell.arm for cell in found if cell.pretrain} == {
        f"spark {mask} {ratio}" for mask in ("random", "mesh") for ratio in (0.5, 0.7)
    }


MINUTES = {"minutes": 0.3, "time_source": "processor"}


def test_the_control_of_equal_cost_trains_for_the_minutes_of_both_stages():
    found = cells(
        equal_cost=True, label_fractions=[0.1, 1.0], pretrain=MINUTES, finetune={**MINUTES, "lr": 0.1}
    )
    minutes = {(cell.arm, cell.finetune.minutes) for cell in found}
    assert minutes == {("scratch", 0.3), ("scratch [equal cost]", 0.6), ("spark mesh 0.7", 0.3)}
    (control, other) = (cell for cell in found if cell.arm == "scratch [equal cost]")
    assert (control.pretrain, control.finetune.lr, other.stratum) == (None, 0.1, "1 of labels")


@pytest.mark.parametrize(
    ("pretrain", "finetune"),
    [({"steps": 5}, MINUTES), (MINUTES, {"steps": 5}), ({**MINUTES, "time_source": "wall"}, MINUTES)],
)
def test_a_control_of_equal_cost_needs_minutes_of_one_time_source(pretrain, finetune):
    with pytest.raises(SettingsError, match="equal_cost needs the length of both stages in minutes"):
        cells(equal_cost=True, pretrain=pretrain, finetune=finetune)


def test_cells_go_seed_by_seed():
    seeds = [cell.finetune.seed for cell in cells(masks=["random", "mesh"], seeds=[3, 1])]
    assert seeds == [3, 3, 3, 1, 1, 1]


def test_all_arms_share_what_is_not_varied():
    found = cells(masks=["random", "mesh"], pretrain={"steps": 5}, finetune={"steps": 7, "lr": 0.1})
    assert {cell.pretrain.steps for cell in found if cell.pretrain} == {5}
    assert len({cell.finetune.model_dump_json() for cell in found}) == 1


def test_arms_are_compared_within_encoder_and_labels():
    found = cells(encoders=["resnet18", "dynunet"], label_fractions=[0.1, 1.0])
    assert {cell.stratum for cell in found} == {
        f"{encoder}, {share} of labels" for encoder in ("resnet18", "dynunet") for share in ("0.1", "1")
    }
    for cell in found:
        if cell.pretrain:
            assert cell.pretrain.encoder == cell.finetune.encoder
    assert {cell.stratum for cell in cells()} == {""}


def test_an_arm_of_its_own_differs_in_what_it_says():
    found = cells(masks=[], arms=[{"mask": "gap", "ratio": 0.9}], pretrain={"steps": 5}, scratch=False)
    (only,) = found
    assert (only.pretrain.mask, only.pretrain.ratio, only.pretrain.steps) == ("gap", 0.9, 5)
    assert only.arm == "spark gap 0.9"


def test_arms_without_a_grid_start_from_the_shared_settings():
    (only,) = cells(masks=[], arms=[{"ratio": 0.9}], pretrain={"mask": "gap"}, scratch=False)
    assert only.arm == "spark gap 0.9"


def test_an_arm_that_names_an_encoder_is_run_with_that_one_only():
    arms = [{"mask": "mesh"}, {"mask": "random", "encoder": "vit", "method": "mae"}]
    found = cells(masks=[], arms=arms, encoders=["resnet18", "vit"])
    assert [(cell.arm, cell.stratum) for cell in found] == [
        ("scratch", "resnet18"),
        ("spark mesh 0.7", "resnet18"),
        ("scratch", "vit"),
        ("spark mesh 0.7", "vit"),
        ("mae random 0.7", "vit"),
    ]


@pytest.mark.parametrize("encoders", [["resnet18"], []])
def test_an_arm_with_an_encoder_that_the_study_does_not_have_is_told(encoders):
    words = {"encoders": encoders} if encoders else {}
    with pytest.raises(SettingsError, match="an arm has encoder 'vit', expected one of encoders"):
        cells(arms=[{"encoder": "vit"}], **words)


def test_a_task_brings_its_preset():
    (only,) = cells(masks=[], finetune={"task": "detect", "batch_size": 3})
    assert (only.finetune.foreground_fraction, only.finetune.batch_size) == (0.8, 3)


@pytest.mark.parametrize("said", ["pretrain", "finetune"])
def test_the_control_has_the_network_of_the_others(said):
    network = {"encoder": "resnet50", "encoder_options": {"widths": [4, 8]}, "dims": 2}
    for cell in cells(**{said: network}):
        for stage in filter(None, (cell.pretrain, cell.finetune)):
            assert (stage.encoder, stage.encoder_options, stage.dims) == tuple(network.values())


def test_titles():
    assert arm_title("a", "") == "a"
    assert arm_title("a", "0.1 of labels") == "a · 0.1 of labels"
    assert cells(folds=[2])[0].title == "scratch seed 0 fold 2"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"masks": ["mesh", "mesh"]}, "two trials have the name 'spark mesh 0.7 seed 0'"),
        (
            {"masks": [], "scratch": False},
            "expected at least one arm, got none: set masks and ratios, or arms",
        ),
        ({"pretrain": {"mask": "random"}}, "pretrain: 'mask' is set by the grid of arms: use masks"),
        ({"pretrain": {"ratio": 0.3}}, "pretrain: 'ratio' is set by the grid of arms: use ratios"),
        ({"folds": [None, 0]}, "folds have null .* besides numbers, so patients would be tested twice"),
        ({"pretrain": {"stpes": 3}}, "study, pretrain: settings: unknown key 'stpes'; did you mean 'steps'"),
        ({"pretrain": {"seed": 3}}, "study, pretrain: 'seed' is set by the study: use seeds"),
        ({"finetune": {"fold": 3}}, "study, finetune: 'fold' is set by the study: use folds"),
        ({"arms": [{"mask": "gap", "steps": 9}]}, "an arm sets 'steps', which all arms share"),
        ({"arms": [{"mask": "gap", "augment": "resized"}]}, "an arm sets 'augment', which all arms share"),
        ({"finetune": {"steps": 3, "epochs": 1}}, "expected one of steps, epochs, minutes"),
    ],
)
def test_what_cannot_be_is_told(words, message):
    with pytest.raises(SettingsError, match=message):
        cells(**words)


def test_nested_settings_are_set_by_dots():
    found = resolve(
        StudySettings, config="quick", overrides=["pretrain.steps=3", "finetune.minutes=2", "seeds=[5]"]
    )
    assert found.pretrain["steps"] == 3
    assert found.pretrain["dims"] == 2
    assert found.finetune["minutes"] == 2
    assert "steps" not in found.finetune
    assert found.seeds == (5,)
    assert trials_of(found)


def test_a_wrong_word_in_a_study_is_told():
    with pytest.raises(SettingsError, match=r"unknown key 'maks'; did you mean 'masks'\?"):
        resolve(StudySettings, overrides=["maks=[mesh]"])


@pytest.mark.parametrize(
    "name", [path.stem for path in sorted(files.shipped("configs").glob("studies/*.yaml"))]
)
def test_shipped_studies_lay_out(name):
    study = resolve(StudySettings, config=name)
    assert study.name == name
    assert any(cell.arm == "scratch" for cell in trials_of(study))


def test_the_mesh_study_is_the_papers():
    study = resolve(StudySettings, config="mesh_mask")
    assert set(study.masks) == {"square", "block", "random", "mesh"}
    assert len(study.ratios) == 7


def test_settings_that_came_later_change_no_digest_at_their_default():
    """Stored trainings stay valid; a new setting belongs into `newer` of its model."""
    counts = [len(settings_of_result(kind())) for kind in (PretrainSettings, FinetuneSettings)]
    assert counts == [50, 58]
    assert settings_of_result(FinetuneSettings(labels={"tumour": [1]}))["labels"] == {"tumour": [1]}


def test_initial_weights_of_a_pretraining_count_by_content(tmp_path):
    kept = []
    for number, content in enumerate((b"one", b"two", b"one")):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        kept.append(settings_of_result(PretrainSettings(init=str(path))))
    assert kept[0] == kept[2] != kept[1]
    assert "init" not in settings_of_result(FinetuneSettings(init="abc"))


def test_the_command_for_seeds_names_the_file_or_preset_and_no_study(tmp_path):
    path = tmp_path / "my study.yaml"
    path.write_text("name: other")
    assert seeds_command("mesh_mask") == "medmim study mesh_mask --set seeds=[0,1]"
    assert seeds_command(str(path)) == f"medmim study '{path}' --set seeds=[0,1]"
    assert seeds_command("other") == "medmim study CONFIG --set seeds=[0,1]"
