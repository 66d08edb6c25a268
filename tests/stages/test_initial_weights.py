import pytest
import tiny

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.contamination_certificate import SeenPatients
from medmim.data.dataset.manifest import read_dataset
from medmim.data.dataset.splits import patient_digest
from medmim.errors import RunError
from medmim.stages.initial_weights import InitialWeights, initial_weights_of
from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_ids import ORIGIN


def find(study, word):
    return initial_weights_of(FinetuneSettings(init=word), Store(study.home), read_dataset(study.data))


def test_scratch_is_nothing(study):
    assert find(study, "scratch") == InitialWeights(saw=SeenPatients())
    assert InitialWeights().arm == "scratch"
    assert not InitialWeights().weights


def test_the_newest_pretraining_is_the_default(study):
    origin = find(study, None)
    assert origin.run_id == study.pretrained.run_id
    assert origin.arm == "spark mesh 0.7 decoder_width=8"
    assert any(name.startswith("encoder.") for name in origin.weights)


def test_a_pretraining_of_a_pack_is_not_the_default(study_copy):
    data = read_dataset(study_copy.data).info.content_hash
    tags = {"stage": "pretrain", "arm": "a", "dataset": "tiny", "dataset_hash": data, ORIGIN: "0" * 32}
    Store(study_copy.home).begin(experiment="e", name="n", tags=tags).finish("FINISHED")
    assert find(study_copy, None).run_id == study_copy.pretrained.run_id


@pytest.mark.parametrize("length", [8, 32])
def test_a_run_is_named_by_its_beginning(study, length):
    assert find(study, study.pretrained.run_id[:length]).run_id == study.pretrained.run_id


def test_a_file_is_named_by_its_ending(study):
    assert find(study, str(study.pretrained.checkpoint)).run_id == study.pretrained.run_id


def test_a_segmenter_can_be_a_beginning_too(study):
    origin = find(study, study.tuned.run_id)
    assert origin.arm == "segment ← spark mesh 0.7 decoder_width=8"


@pytest.mark.parametrize("word", ["zzz", ""])
def test_what_fits_no_run_or_many_is_told(study, word):
    with pytest.raises(
        RunError,
        match=r"expected `scratch`, a weights file or a run of .* got the beginning of (no|\d) run id",
    ):
        find(study, word)


def test_a_missing_file_is_told(study):
    with pytest.raises(RunError, match=r"no weights at 'gone\.safetensors'"):
        find(study, "gone.safetensors")


def test_pretraining_on_another_dataset_does_not_count(study, tmp_path):
    other = read_dataset(tiny.make_dataset(tmp_path / "other", seed=9))
    advice = rf"on this dataset; use --init {study.pretrained.run_id[:8]} \(spark mesh .*, on tiny\)"
    with pytest.raises(RunError, match=advice):
        initial_weights_of(FinetuneSettings(), Store(study.home), other)


def test_patients_that_were_seen_are_counted(study):
    dataset, origin = read_dataset(study.data), find(study, None)
    assert origin.seen(dataset.in_split("test")) == 0
    assert origin.seen(dataset.in_split("train")) == len(dataset.in_split("train")) == 7
    assert origin.saw.patients == {patient_digest(volume.subject) for volume in dataset.in_split("train")}
