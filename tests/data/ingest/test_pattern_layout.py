"""Described layouts: five lines of YAML give images, labels, patients and contrasts."""

from pathlib import Path

from medmim.data.ingest.descriptor import load_descriptor
from medmim.data.ingest.pattern_layout import match_image, pattern_cases

FIVE_LINES = """
name: mine
layout:
  image: ['(?P<subject>[^/]+)/(?P<contrast>T1|FLAIR)\\.nii\\.gz']
  label: "{subject}/mask.nii.gz"
  tokens: ["{contrast}"]
"""


def test_five_lines_describe_a_dataset(tmp_path):
    (tmp_path / "mine.yaml").write_text(FIVE_LINES)
    descriptor = load_descriptor(str(tmp_path / "mine.yaml"))
    names = [f"{who}/{name}.nii.gz" for who in ("anna", "bert") for name in ("T1", "FLAIR", "mask")]
    paths = {name: Path(name) for name in names}
    cases = pattern_cases(descriptor, descriptor.layout, paths, declared={})
    assert {(case.subject, case.study, case.tokens, len(case.labels)) for case in cases} == {
        (who, who, token, 1) for who in ("anna", "bert") for token in (("t1",), ("flair",))
    }
    assert match_image(descriptor.layout, "anna/mask.nii.gz") is None
