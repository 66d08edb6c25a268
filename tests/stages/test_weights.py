"""`medmim weights` and `--init FILE`: recognised, refused, loaded, recorded."""

import json

import pytest
import tiny
from public_networks import save_medicalnet

from medmim.config.runs import PretrainSettings
from medmim.errors import TransferError
from medmim.stages.pretrain.run import pretrain
from medmim.stages.weights import inspect_weights
from medmim.tracking.mlflow_store import Store


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    return save_medicalnet(tmp_path_factory.mktemp("public") / "resnet_tiny.pth")


def test_a_public_file_is_described(public):
    report = inspect_weights(public)
    assert (report.encoder, report.spatial_dims, report.loaded_fraction) == ("resnet18", 3, 1.0)
    assert report.encoder_options == {"max_pool": True, "layers": [1, 1, 1, 1], "widths": [4, 4, 8, 8]}
    assert report.contamination == "unknown"


def test_a_file_of_medmim_is_described_too(study):
    report = inspect_weights(study.pretrained.checkpoint)
    assert (report.family, report.loaded_fraction) == ("medmim, pretraining", 1.0)
    assert report.contamination == "7 patients recorded"


def settings(data, init, **words):
    base = {
        "size": (32,),
        "encoder_options": {"max_pool": False},
        "batch_size": 1,
        "workers": 0,
        "precision": "fp32",
        "steps": 1,
        "num_evaluations": 1,
    }
    return PretrainSettings(**{**base, "data": data, "init": str(init), "monitors": False, **words})


def test_pretraining_continues_from_a_public_file_and_records_where_it_came_from(public, tiny_dataset, home):
    said = []
    result = pretrain(settings(tiny_dataset, public), home=home, log=said.append)
    tags = Store(home).run(result.run_id).data.tags
    assert tags["lineage"].startswith(
        "resnet_tiny.pth (ResNet (torchvision, timm, SparK, MedicalNet, MONAI), SHA-256"
    )
    assert tags["loaded_fraction"] == "1.0000"
    assert tags["encoder"] == "resnet18"
    assert tags["transfer_rules"] == "stem changed: max_pool True → False"
    assert not (result.checkpoint.parent / "patients.json").exists()  # unknown stays unknown
    assert any(line.startswith("warning: it is unknown which patients") for line in said)
    report = inspect_weights(result.checkpoint)
    assert report.contamination == "unknown"


def test_another_architecture_is_refused_with_what_did_not_fit(public, tiny_dataset, home):
    with pytest.raises(TransferError, match=r"only 0\.0% of the encoder's \d+ tensors .* missing stages"):
        pretrain(settings(tiny_dataset, public, encoder="dynunet", encoder_options={}), home=home)
    assert not Store(home).runs(stage="pretrain")


def test_pretraining_continues_from_a_run_with_its_decoder_and_its_patients(study, home):
    said = []
    words = {**tiny.TINY, "method_options": {"decoder_width": 8}, "monitors": False}
    continued = settings(study.data, study.pretrained.checkpoint, **words)
    result = pretrain(continued, home=home, log=said.append)
    assert any("of the method 'spark' were loaded" in line for line in said)
    tags = Store(home).run(result.run_id).data.tags
    assert tags["pretraining_run"] == study.pretrained.run_id
    assert tags["lineage"] == study.pretrained.run_id
    assert len(json.loads((result.checkpoint.parent / "patients.json").read_text())) == 7
