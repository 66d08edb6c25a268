"""Names of segments and regions of interest that may be written, because they cannot identify a patient."""

from __future__ import annotations

import functools
import importlib
import re
from typing import Any

import pydicom

_MANUFACTURER = "medmim"
_MAX_LENGTH = 64
_CONTEXT_GROUPS = ("cid4", *(f"cid{number}" for number in range(7151, 7161)), "cid7166")
_IDENTIFIERS = ("PatientID", "AccessionNumber", "InstitutionName", "StationName", "StudyID")
# words of labels that these groups lack
_WORDS = (
    "gtv ctv ptv itv igtv oar prv bev gtvp gtvn ctvp ctvn body external skin couch bolus roi label "
    "class segment region mask lesion lesions tumour tumor tumours tumors core whole enhancing non "
    "necrosis necrotic edema oedema wt tc et ed ncr net organ organs background left right lt rt l r "
    "upper lower lobe anterior posterior medial lateral superior inferior high low risk boost "
    "primary nodal node nodes metastasis metastases cyst cystic solid fat muscle bone air vessel "
    "vessels cavity ventricle ventricles hemorrhage haemorrhage infarct stroke lung lungs heart "
    "liver spleen kidney kidneys pancreas stomach bladder prostate rectum bowel colon duodenum "
    "esophagus oesophagus aorta trachea thyroid parotid mandible larynx brainstem chiasm lens eye "
    "eyes cord spinal femur femoral head neck breast chest wall pelvis hippocampus thalamus "
    "cerebellum cortex matter white grey gray csf skull brain gland artery vein portal cava nodule "
    "nodules adrenal gallbladder uterus ovary testis rib ribs vertebra vertebrae sacrum disc tissue "
    "of and the in with "
)


def public_name(dataset: pydicom.Dataset, segment: pydicom.Dataset) -> str:
    """Return the label of a segment or name of a region, unless it may contain the name of a person.

    All words must be anatomical or usual ones, or have lower-case letters only; none may occur in the names
    and identifiers of the file. Otherwise the result is the meaning of the segment's code, or "". Names of
    medmim's own segmentations are the class names of their dataset.
    """
    label = str(segment.get("SegmentLabel") or segment.get("ROIName") or "").strip()[:_MAX_LENGTH]
    own = (
        str(dataset.get("Manufacturer", "")) == str(dataset.get("ManufacturerModelName", "")) == _MANUFACTURER
    )
    return label if label and (own or _is_public(label, dataset)) else _coded_name(segment)


def _is_public(label: str, dataset: pydicom.Dataset) -> bool:
    words = re.findall(r"[^\W\d_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", label))
    texts = [str(one.value).lower() for one in dataset if one.VR == "PN" or one.keyword in _IDENTIFIERS]
    identity = set(re.findall(r"[^\W\d_]+", " ".join(texts)))
    usual = all(word.islower() or word.lower() in _known_words() for word in words)
    named = any(word.lower() in identity for word in words)
    return bool(words) and usual and not named and not re.search(r"\d{3}", label)


@functools.cache
def _known_words() -> frozenset[str]:
    """Return usual words of labels, and the words of DICOM's context groups for segmentations."""
    keywords = " ".join(keyword for group in _CONTEXT_GROUPS for keyword in getattr(_codes(), group).dir())
    return frozenset(_WORDS.split()) | {word.lower() for word in re.findall(r"[A-Z][a-z]{2,}", keywords)}


@functools.cache
def _codes() -> Any:
    """Return pydicom's dictionary of standard codes; it is large, and only labels need it."""
    return importlib.import_module("pydicom.sr.codedict").codes


def _coded_name(segment: pydicom.Dataset) -> str:
    """Return the meaning of a segment's code in pydicom's dictionary of standard codes, or ""."""
    for one in segment.get("SegmentedPropertyTypeCodeSequence", ()):
        scheme, value = str(one.get("CodingSchemeDesignator", "")), str(one.get("CodeValue", ""))
        known = getattr(_codes(), scheme, None)
        for keyword in known.dir() if known else ():
            if getattr(known, keyword).value == value:
                return str(getattr(known, keyword).meaning).lower()
    return ""
