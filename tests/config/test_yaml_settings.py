"""Settings are merged from presets, files, flags and overrides, and a problem is one line that says where."""

import pytest

from medmim import files
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.study import StudySettings
from medmim.config.yaml_settings import find_config, resolve
from medmim.errors import SettingsError

CONFIGS = sorted(files.shipped("configs").glob("*/*.yaml"))


def kind_of(path):
    return {"pretrain": PretrainSettings, "finetune": FinetuneSettings, "studies": StudySettings}[
        path.parent.name
    ]


def write(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def message(kind=PretrainSettings, **words):
    with pytest.raises(SettingsError, match=r"^.+$") as caught:  # one line
        resolve(kind, **words)
    assert caught.value.exit_code == 2
    return str(caught.value)


OLD_NAMES = [
    (PretrainSettings, "clock", "processor", "time_source"),
    (PretrainSettings, "evaluations", 3, "num_evaluations"),
    (FinetuneSettings, "labelled", 5, "num_labelled"),
    (FinetuneSettings, "view", "whole", "field_of_view"),
    (FinetuneSettings, "tune", "partial", "mode"),
    (FinetuneSettings, "freeze", 0.25, "freeze_until"),
    (FinetuneSettings, "least_loaded", 0.5, "min_loaded_fraction"),
    (FinetuneSettings, "foreground", 0.75, "foreground_fraction"),
]


def test_later_words_win(tmp_path):
    config = write(tmp_path, "lr: 0.1\nbatch_size: 3\nseed: 5\n")
    settings = resolve(
        PretrainSettings, config=config, flags={"batch_size": 6, "seed": 7}, overrides=["seed=9"]
    )
    assert (settings.warmup, settings.lr, settings.batch_size, settings.seed) == (0.05, 0.1, 6, 9)


def test_flags_that_were_not_given_change_nothing(tmp_path):
    config = write(tmp_path, "ratio: 0.5\n")
    assert resolve(PretrainSettings, config=config, flags={"ratio": None}).ratio == 0.5


@pytest.mark.parametrize(
    ("older", "flags", "left"),
    [
        ("epochs: 3", {"steps": 5}, ("steps", 5)),
        ("steps: 5", {"minutes": 2.0}, ("minutes", 2.0)),
        ("steps: 5", {"epochs": None}, ("steps", 5)),
    ],
)
def test_a_newer_budget_replaces_one_of_another_kind(tmp_path, older, flags, left):
    settings = resolve(PretrainSettings, config=write(tmp_path, older), flags=flags)
    given = {key: getattr(settings, key) for key in ("steps", "epochs", "minutes")}
    assert {key: value for key, value in given.items() if value is not None} == dict([left])


def test_a_newer_number_of_labels_replaces_a_share(tmp_path):
    settings = resolve(
        FinetuneSettings, config=write(tmp_path, "num_labelled: 10"), flags={"label_fraction": 0.5}
    )
    assert (settings.num_labelled, settings.label_fraction) == (None, 0.5)


def test_an_unknown_key_is_told_its_neighbour(tmp_path):
    assert "unknown key 'raito'; did you mean 'ratio'?" in message(config=write(tmp_path, "raito: 0.5"))


def test_a_key_of_the_other_command_is_unknown():
    assert "unknown key 'ratio'" in message(FinetuneSettings, overrides=["ratio=0.5"])


def test_all_problems_are_in_one_message(tmp_path):
    config = write(tmp_path, "raito: 0.5\nbatch_size: 0\nprecision: fp8\nexperiment: a b\n")
    said = message(config=config)
    assert config in said
    for part in (
        "'ratio'",
        "batch_size: expected a value greater than 0, got 0",
        "precision: expected 'auto', 'fp32', 'bf16' or 'fp16', got 'fp8'",
        "experiment: ",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("steps: many", "steps: expected a whole number, got 'many'"),
        ("steps: 1.5", "steps: expected a whole number, got 1.5"),
        ("lr: fast", "lr: expected a number, got 'fast'"),
        ("monitors: perhaps", "monitors: expected true or false, got 'perhaps'"),
        ("mask_options: 3", "mask_options: expected names with values, such as {name: value}, got 3"),
        ("mask: [mesh]", "mask: expected a text, got ['mesh']"),
    ],
)
def test_wrong_types_are_told_in_plain_words(tmp_path, line, said):
    assert message(config=write(tmp_path, f"{line}\n")).endswith(said)


def test_a_word_in_place_of_a_list_is_told_in_plain_words(tmp_path):
    said = message(StudySettings, config=write(tmp_path, "seeds: many\n"))
    assert said.endswith("seeds: expected a list, such as [1, 2], got 'many'")


def test_bad_yaml_names_file_and_line(tmp_path):
    config = write(tmp_path, "method: spark\nmask: [mesh\nratio: 0.5\n")
    said = message(config=config)
    assert said.startswith(f"{config}: not valid YAML (line ")


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", ""])
def test_a_file_without_keys_is_refused(tmp_path, text):
    assert "expected 'key: value' lines" in message(config=write(tmp_path, text))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_bytes(b"\xff\xfe\x00ratio")
    assert str(path) in message(config=str(path))


def test_yaml_cannot_build_objects(tmp_path):
    said = message(config=write(tmp_path, "method: !!python/object/apply:os.getcwd []\n"))
    assert "not valid YAML" in said


def test_the_preset_of_a_method_lies_under_everything():
    flags = {"method": "mask_any_net"}
    settings = resolve(PretrainSettings, base="mask_any_net", flags=flags)
    assert (settings.method, settings.mask, settings.ratio) == ("mask_any_net", "combined", 0.25)
    changed = resolve(PretrainSettings, base="mask_any_net", config="mae", flags={**flags, "mask": "mesh"})
    assert (changed.method, changed.mask, changed.ratio) == ("mask_any_net", "mesh", 0.75)
    assert resolve(PretrainSettings, base="spark") == PretrainSettings()  # without one, defaults hold


def test_an_unknown_preset_is_told_its_neighbour():
    assert "no such file or preset; did you mean 'spark_mesh'?" in message(config="spark_mash")


def test_presets_belong_to_their_command():
    assert "known: classify, detect, multilabel, ordinal, regress, segment" in message(
        FinetuneSettings, config="zzz"
    )


@pytest.mark.parametrize("word", ["steps", "steps:3"])
def test_overrides_need_an_equals_sign(word):
    assert "expected key=value" in message(overrides=[word])


def test_overrides_are_read_as_yaml():
    settings = resolve(
        PretrainSettings,
        overrides=["encoder-options={filters: [4, 8]}", "include_held_out=true", "checkpoint_every_steps=5"],
    )
    assert settings.encoder_options == {"filters": [4, 8]}
    assert settings.include_held_out is True
    assert settings.checkpoint_every_steps == 5


def test_a_bad_override_is_named():
    assert "--set ratio: not valid YAML" in message(overrides=["ratio=[1"])


def test_there_are_presets_for_each_command():
    assert {path.parent.name for path in CONFIGS} == {"pretrain", "finetune", "studies"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_preset_is_valid_and_opens_with_its_command(path):
    settings = resolve(kind_of(path), config=path.stem)
    command = {
        "pretrain": f"medmim pretrain --config {path.stem}",
        "finetune": f"medmim finetune {getattr(settings, 'task', '')} --config {path.stem}",
        "studies": f"medmim study {path.stem} --data medmim-data",
    }[path.parent.name]
    assert path.read_text(encoding="utf-8").splitlines()[0] == f"# {command}"
    assert find_config(path.stem, kind_of(path)) == path


def test_a_key_with_dots_changes_one_option_and_leaves_the_others(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method_options: {decoder_width: 8, target: {hog: {bins: 9}}}\nratio: 0.5\n")
    words = ["method_options.target.hog.bins=6", "method-options.decoder=official", "encoder_options.depth=2"]
    settings = resolve(PretrainSettings, config=str(path), overrides=words)
    assert settings.method_options == {
        "decoder_width": 8,
        "target": {"hog": {"bins": 6}},
        "decoder": "official",
    }
    assert settings.encoder_options == {"depth": 2}
    assert settings.ratio == 0.5


def test_a_key_with_dots_replaces_what_holds_no_options():
    words = ["method_options.target=raw", "method_options.target.hog.bins=6"]
    assert resolve(PretrainSettings, overrides=words).method_options == {"target": {"hog": {"bins": 6}}}


def test_an_unknown_key_with_dots_is_told_the_nearest():
    with pytest.raises(SettingsError, match="unknown key 'method_option'; did you mean 'method_options'"):
        resolve(PretrainSettings, overrides=["method_option.target=raw"])


@pytest.mark.parametrize(("kind", "old", "value", "new"), OLD_NAMES)
def test_a_setting_of_0_1_0_is_accepted_with_a_line_that_names_the_new_one(
    kind, old, value, new, tmp_path, caplog
):
    given = {old: value}
    ways = [
        resolve(kind, config=write(tmp_path, f"{old}: {value}")),
        resolve(kind, overrides=[f"{old}={value}"]),
        resolve(kind, flags=given),
        kind.model_validate(given),  # the stored settings of an earlier run
    ]
    assert [getattr(settings, new) for settings in ways] == [value] * 4
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"setting '{old}' is now called '{new}'; this release still accepts the old name"] * 4


def test_renamed_values_and_mask_options_are_accepted(caplog):
    assert resolve(FinetuneSettings, overrides=["tune=probe"]).mode == "linear_probe"
    settings = resolve(PretrainSettings, overrides=["mask_options.up_to=0.9"])
    assert settings.mask_options == {"max_ratio": 0.9}
    lines = [record.getMessage() for record in caplog.records]
    assert "mode 'probe' is now called 'linear_probe'; this release still accepts the old name" in lines
    assert "mask_options 'up_to' is now called 'max_ratio'; this release still accepts the old name" in lines


def test_a_later_source_overrides_a_setting_under_either_name(tmp_path):
    config = write(tmp_path, "num_labelled: 5\nevaluations: 3\n")
    settings = resolve(FinetuneSettings, config=config, overrides=["labelled=7", "num_evaluations=4"])
    assert (settings.num_labelled, settings.num_evaluations) == (7, 4)


def test_studies_accept_old_names_in_arms_and_stages():
    study = StudySettings.model_validate(
        {
            "arms": [{"mask_options": {"up_to": 0.9}}],
            "pretrain": {"evaluations": 1},
            "finetune": {"tune": "probe", "labelled": 3},
        }
    )
    assert study.arms == ({"mask_options": {"max_ratio": 0.9}},)
    assert study.pretrain == {"num_evaluations": 1}
    assert study.finetune == {"mode": "linear_probe", "num_labelled": 3}


def test_yaml_aliases_that_expand_to_a_huge_document_are_rejected(tmp_path):
    rows = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    rows += [
        f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    assert "expands to more than 10000 values" in message(
        config=write(tmp_path, "\n".join([*rows, "steps: *i"]))
    )
    assert "expands to more than 10000 values" in message(config=write(tmp_path, "steps: &a [*a]"))
