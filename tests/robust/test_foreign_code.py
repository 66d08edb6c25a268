"""Import paths in files of others are never followed: every loader is tried with a planted one."""

import ast
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

import medmim
from medmim import files
from medmim.cli import main
from medmim.config.own_code import TRUSTED
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.augmentation import load_augmentation
from medmim.errors import MedmimError, RunError, UsageError
from medmim.stages.initial_weights import initial_weights_of
from medmim.stages.model_lookup import find_model
from medmim.stages.resumption import stored_settings
from medmim.stages.train_seeds import train_missing_seeds
from medmim.tracking.comparison.runs import CASES as CASES_OF_RUN
from medmim.tracking.mlflow_store import Store
from medmim.training.tasks.trained_model import load_trained_model
from medmim.training.weights import load_weights

PACKAGE = Path(medmim.__file__).parent
CASES = Path(__file__).parents[3] / "shared" / "cases" / "trust" / "weights_code"
REFUSED = r"needs the code 'planted_code:run'.*--trust-code planted_code:run"
# take names of encoders and masks from the user, or from the loaders below
BUILDERS = {
    "data/loading/augmentation.py",  # augment: module:callable of the settings
    "stages/bench/workload.py", "stages/export/run.py", "stages/initial_weights.py", "stages/weights.py",
    "training/recipe.py", "training/tasks/trained_model.py",
    "stages/masks/analysis.py",
    "stages/masks/gallery.py", "stages/methods.py", "stages/pretrain/setup.py",
    "stages/study/checks.py", "tracking/comparison/descriptions.py", "training/mask_any_net_regularizer.py",
    "masks/__init__.py",
}  # fmt: skip


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Weights whose description names code that leaves a mark when it is imported."""
    (tmp_path / "planted_code.py").write_text(
        "open('imported', 'w').close()\nrun = print\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(TRUSTED, "")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}))
    description = {
        "kind": "segment", "spatial_dims": 3, "in_channels": 1, "encoder": "planted_code:run",
        "encoder_options": {}, "label_names": {"1": "tumour"}, "head": {}, "size": [16, 16, 16],
        "spacing_mm": None, "view": "patch", "task_options": {}, "sha256": files.sha256_of(path),
    }  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(description), encoding="utf-8")
    yield path
    assert not (tmp_path / "imported").exists()


def test_weights_are_refused_by_every_loader(planted, tiny_dataset, tmp_path):
    store = Store(tmp_path / "home")
    loaders = [
        lambda: load_weights(planted),
        lambda: load_trained_model(planted),
        lambda: load_trained_model(find_model(str(planted), store.home, print).weights),
        lambda: initial_weights_of(FinetuneSettings(init=str(planted)), store, read_dataset(tiny_dataset)),
    ]
    for load in loaders:
        with pytest.raises(RunError, match=REFUSED):
            load()


@pytest.mark.parametrize(
    "values", [{"encoder": "planted_code:run"}, {"mask_options": {"masks": {"planted_code:run": 1}}}]
)
def test_settings_of_a_stored_run_are_refused(planted, tmp_path, values):
    store = Store(tmp_path / "home")
    recorder = store.begin(experiment="e", name="n", tags={"stage": "pretrain"})
    recorder.settings(values)
    with pytest.raises(RunError, match=REFUSED):
        stored_settings(PretrainSettings, store, recorder.run_id, data=tmp_path)


def test_missing_seeds_are_not_trained_with_code_that_a_run_names(planted, tiny_dataset, tmp_path):
    store = Store(tmp_path / "home")
    dataset = read_dataset(tiny_dataset)
    tags = {"stage": "finetune", "arm": "scratch", "seed": "0", "metric": "dice", "task": "segment"}
    tags |= {"dataset_hash": dataset.info.content_hash, "dataset": "d", "split_hash": "s"}
    recorder = store.begin(experiment="e", name="n", tags=tags)
    recorder.settings({"encoder": "planted_code:run"})
    recorder.text(CASES_OF_RUN, '{"case": "c", "patient": "p", "label": "core", "dice": 0.5}\n')
    recorder.finish("FINISHED")
    words = {"seeds": 2, "data": tiny_dataset, "home": store.home, "log": print}
    with pytest.raises(RunError, match=REFUSED):
        train_missing_seeds([recorder.run_id], **words)


@pytest.mark.parametrize(
    "command",
    [
        "predict scan.nii.gz --model MODEL",
        "export --format safetensors --data DATA --model MODEL",
        "masks --image scan.nii.gz --model MODEL",
        "finetune segment --data DATA --init MODEL",
        "finetune segment --data DATA --init MODEL --seeds 0,1",
        "pretrain --data DATA --init MODEL",
        "embed --data DATA --model MODEL",
        "evaluate --data DATA --model MODEL",
        "weights MODEL",
    ],
)
def test_commands_refuse_planted_code_in_one_line(planted, command, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).random((16, 16, 16)), np.eye(4)), "scan.nii.gz")
    places = {"DATA": str(tiny_dataset), "MODEL": str(planted)}
    result = CliRunner().invoke(main, [places.get(word, word) for word in command.split()])
    assert result.exit_code == 1
    assert "--trust-code planted_code:run" in result.stderr.splitlines()[-1]


def test_the_crafted_weights_run_no_shell_command(tmp_path, monkeypatch):
    if not CASES.is_dir():
        pytest.skip("cases of the project are not here")
    shutil.copytree(CASES, tmp_path / "weights")
    monkeypatch.chdir(tmp_path / "weights")
    monkeypatch.setenv(TRUSTED, "")
    with pytest.raises(RunError, match=r"--trust-code monai\.bundle:run"):
        load_trained_model(Path("weights.safetensors"))
    assert not Path("code-from-data-was-run").exists()


def described(planted, **changes):
    """Weights of others with a description that names no code."""
    told = {**json.loads(planted.with_suffix(".json").read_text("utf-8")), "encoder": "resnet18", **changes}
    planted.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")
    return planted


@pytest.mark.parametrize(
    "changes",
    [
        {"in_channels": 10**9},
        {"in_channels": -(10**9)},
        {"spatial_dims": 1e999},
        {"encoder_options": {"widths": [10**6] * 4}},
        {"encoder_options": {"depths": {"deep": [[10**12]]}}},
        {"head": {"channels": float("nan")}},
    ],
)
def test_networks_larger_than_their_weights_are_refused_before_they_are_built(planted, changes):
    with pytest.raises(RunError, match="larger than the weights"):
        load_trained_model(described(planted, **changes))


@pytest.mark.parametrize(
    "key",
    [
        "spatial_dims",
        "in_channels",
        "encoder",
        "encoder_options",
        "label_names",
        "head",
        "size",
        "task_options",
    ],
)
def test_descriptions_with_odd_values_are_errors_of_ours(planted, key):
    for value in (None, [], {}, "x", -1, 0, [[1]], {"": 0}):
        with pytest.raises(MedmimError, match=r"\w"):
            load_trained_model(described(planted, **{key: value}))


def test_deeply_nested_descriptions_are_an_error_of_ours(planted):
    planted.with_suffix(".json").write_text('{"kind": ' + "[" * 100_000, encoding="utf-8")
    with pytest.raises(RunError, match=r"cannot be read \(ValueError\)"):
        load_weights(planted)


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained", "pretrained_cfg"])
def test_weights_of_others_cannot_make_timm_read_a_file(planted, option):
    path = described(planted, encoder="timm:resnet18", spatial_dims=2, encoder_options={option: "evil.pth"})
    with pytest.raises(UsageError, match=f"option '{option}' reads files"):
        load_trained_model(path)


def test_an_augmentation_file_cannot_name_code(planted, tmp_path):
    """The settings of a run or pack may name a file, whose `own` is another import path."""
    (tmp_path / "own.yaml").write_text("own: planted_code:run\n", encoding="utf-8")
    with pytest.raises(RunError, match=REFUSED):
        load_augmentation("own.yaml")


def test_trusted_code_is_imported(planted, tmp_path, monkeypatch):
    monkeypatch.setenv(TRUSTED, "planted_code:run")
    assert load_weights(planted)[1]["encoder"] == "planted_code:run"


def test_every_module_that_builds_encoders_or_masks_is_known():
    """A new one must take names from the user, or from a loader that is tried here."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(getattr(node, "func", None), "id", "")
            if name in ("build_encoder", "build_mask", "import_callable"):
                found.add(str(path.relative_to(PACKAGE)))
    assert found - {"encoders/custom.py", "masks/custom.py"} == BUILDERS


def test_one_module_parses_yaml():
    """It bounds the size that aliases expand to, and the depth."""
    texts = {path.relative_to(PACKAGE): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    words = ("yaml.safe_load", "yaml.load", "yaml.compose", "YAML(", "SafeLoader", "FullLoader", "BaseLoader")
    assert [str(path) for path, text in texts.items() if any(word in text for word in words)] == [
        "config/yaml_settings.py"
    ]


def test_only_one_module_imports_users_code():
    users = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "import_module(" in path.read_text(encoding="utf-8")
    ]
    # the others import modules whose names are in the source: the API, commands, workers of the sandbox, ray
    assert sorted(users) == [
        "__init__.py",
        "cli/__init__.py",
        "config/own_code.py",
        "data/dicom/decode.py",  # SimpleITK alone
        "data/dicom/segment_names.py",  # a part of pydicom
        "data/formats/annotation_rows.py",  # pandas alone
        "data/formats/volumes.py",  # SimpleITK alone
        "data/sandbox/fork_server.py",
        "data/sandbox/ray_cluster.py",
        "data/sandbox/sandbox_worker.py",
        "data/sandbox/spawned_workers.py",
        "encoders/custom.py",  # timm alone
        "operating_system.py",  # fcntl and resource, where they exist
    ]
