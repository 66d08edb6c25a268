"""Fixed vocabulary of series tokens: contrast, plane, modality and body part."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORDS = {
    "t1": "t1 t1w t1wi mprage mp2rage",
    "t2": "t2 t2w t2wi",
    "t2star": "t2star",
    "flair": "flair",
    "dwi": "dwi diff diffusion trace",
    "dti": "dti",
    "adc": "adc",
    "pd": "pd pdw",
    "swi": "swi",
    "tof": "tof",
    "asl": "asl",
    "bold": "bold fmri",
    "perf": "perf perfusion",
    "stir": "stir",
    "fs": "fs fatsat",
    "mip": "mip",
    "pre": "pre precontrast",
    "post": "post postcontrast gad gd",
    "ax": "ax axial tra transverse",
    "cor": "cor coronal",
    "sag": "sag sagittal",
    "ct": "ct",
    "mr": "mr",
    "pet": "pet",
    "head": "head brain skull neuro cranium cranial orbit orbits face iac pituitary headneck wholebody",
    "neck": "neck cspine cervical",
    "chest": "chest thorax lung lungs heart cardiac breast tspine",
    "abdomen": "abdomen abdominal liver kidney spleen pancreas lspine",
    "pelvis": "pelvis pelvic prostate hip bladder uterus",
    "limb": "knee ankle foot shoulder elbow wrist hand extremity leg arm",
} | {f"channel{number}": f"channel{number}" for number in range(10)}
_MEANING = {word: token for token, words in _WORDS.items() for word in words.split()}
VOCABULARY = tuple(_WORDS)
# scanners write some words without a space: T1post, FLAIRreg
_HEADS = re.compile(r"(t1|t2|flair|dwi|adc)(?=\D)(.+)")


def tokens_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the tokens found in `texts`, in vocabulary order; drop all others."""
    found: set[str] = set()
    for word in re.findall(r"[a-z0-9]+", " ".join(texts).lower().replace("t2*", "t2star")):
        parts = [word]
        if word not in _MEANING and (split := _HEADS.fullmatch(word)):
            parts = list(split.groups())
        found.update(_MEANING[part] for part in parts if part in _MEANING)
    return tuple(token for token in VOCABULARY if token in found)
