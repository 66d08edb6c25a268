"""Texts of the warnings of `dataset.json`, one sentence for each kind."""

from __future__ import annotations

from typing import Any

from medmim.errors import counted

_TEXTS = {
    "labels_without_background": "{labels} of {total:label} without any 0, which stands for background: "
    "every voxel there belongs to a class; if another value is the background, leave it out of --set "
    "labels={{NAME: [VALUE]}} of medmim finetune segment, or renumber the labels",
    "labels_look_smoothed": "{labels:label has|labels have} values that only lie between lower and higher "
    "ones, as smoothing or resizing leaves them at edges: each becomes a class; if they are none, save the "
    "labels again without interpolation",
    "label_parts_lost": "parts of {labels:label} are not used: {listed}; see the ledger",
    "coloured_labels": "labels are coloured pictures, and their classes are the grey values of the colours: "
    "{listed}; name them, as in --label-name {example}=NAME",
    "colours_of_one_code": "one label value stands for several colours in coloured label pictures: {listed}; "
    "each value becomes one class regardless of colour; if the colours are the classes, save labels with one "
    "number for each class",
    "images_without_perceptual_hash": "altered copies were not searched for among {missing:image} of "
    "{images}, which have no perceptual hash: very small, or ingested before 0.2.0; ingest the latter again",
    "background_is_a_class": "label {code} is named background, but 0 is the background in every label: "
    "{code} becomes a class, and the structure of value 0 is not trained; renumber the labels",
    "declared_regions": "dataset.json declares overlapping regions: the labels keep their values, and each "
    "value is a class; to train the regions, pass --set 'regions={{{regions}}}' to medmim finetune segment",
    "segments_overlap": "segments overlap in {files:file} of 3D Slicer: {voxels:voxel has|voxels have} the "
    "class of the smaller segment only; to keep all, save each segment as a file and pass --overlap regions",
    "outlines_overlap": "outlines of several classes overlap in {images:image}: {voxels:pixel has|pixels "
    "have} the class of the smaller one only; to keep all, save a mask for each class, and pass "
    "--overlap regions",
    "entries_not_used": "{entries:entry|entries} of annotation files not used: {reasons}; see the ledger",
    "images_not_found": "annotation files name {images:image} that the source lacks, or has under "
    "another name or several times: their annotations are not used",
    "classes_numbered": "names of {classes:class|classes} in annotation files are no plain words of up to 40 "
    "characters: they are called class 1, class 2, … in the order in which they occur",
    "two_columns_of_classes": "classes are those of the column '{used}' of the table; {others} may hold "
    "classes too, and is not used: if the classes are there, leave '{used}' out, or train with --targets "
    "TABLE --column NAME",
    "doubtful_column_of_classes": "classes are those of the column '{used}' of the table, which has other "
    "columns of words: if the classes are in another one, call it class, or train with --targets TABLE "
    "--column NAME",
    "classes_of_single_images": "{classes:class|classes} for {images:image}: if they are numbers such as "
    "ages, train with medmim finetune regress --targets TABLE --column NAME; if they are patients, leave out "
    "--class-folders",
    "spreadsheets_not_read": "{files:spreadsheet} not read: if it is a table of classes, boxes or patients, "
    "save it as CSV (UTF-8) and ingest again",
    "zeros_dropped": "{files:number|numbers} in annotation files would name an image with leading zeros, as "
    "007 for 7, which spreadsheets drop: format that column as text, enter the zeros again, save it as CSV "
    "and ingest again",
    "inverted_display": "{volumes:image} of {total} with MONOCHROME1, where larger values are shown darker: "
    "values are kept as they are stored; leave the files out, or convert them, unless all images are alike",
    "boxes_without_class": "tables of boxes have no known column of classes, but {columns:column} of words: "
    "all boxes are of one class; if a column is their class, call it class",
    "masks_of_two_codes": "{ones:label has|labels have} the values 0 and 1, {whites} have 0 and 255, and "
    "none has both: they become two classes; if both mean the same, train with --set "
    "labels={{mask: [1, 255]}}",
    "white_is_a_class": "{labels:label has|labels have} the value 255 beside consecutive classes: it is a "
    "class too; if it marks voxels that nobody annotated, pass --ignore-label 255",
    "visits_lack_channels": "{visits:visit lacks|visits lack} some of the {channels} channels, of "
    "{total:visit}: a model of all channels is neither trained nor tested on them; add the files, or exclude "
    "the visits with --role 'GLOB=skip'",
    "names_in_two_splits": "{names:name occurs|names occur} in folders of several splits, as train/7 and "
    "test/7, of {total:patient}: read as different patients; if they are the same people, name them with "
    "--subject-pattern or --subjects",
    "mixed_units": "values of {modality} volumes have different units ({listed}): they are kept as they are, "
    "so convert them, or ingest each unit separately",
    "people_with_several_ids": "{people:person has|people have} several PatientIDs ({patients} in all), by "
    "name and birth date: read as different patients; if they are not, name them with --subjects or "
    "--subject-pattern",
    "no_label_used": "no label is used, although {files:file looks|files look} like labels: see the "
    "ledger for the reasons, or assign them with --role 'GLOB=label'",
    "annotations_not_used": "not used: {files:annotation file}, damaged, of an unknown kind or "
    "naming no image of this source; see the ledger",
    "contrast_without_label": "no label for {images:image} of {patients:patient}, although another "
    "image of each of these patients has one: if the labels apply to both, describe the layout in a YAML "
    "file and pass it to --as",
    "every_image_is_a_patient": "no patient information: each image ({images}) counts as a patient, "
    "so images of one patient may be in train and test; pass --subject-pattern or --subjects",
    "patients_by_two_rules": "the patients of {images:image} come from paths and those of {dicom} from "
    "PatientID: a patient with both counts as two; assign patients with --subjects or --subject-pattern",
    "boxes_of_another_size": "not used: {boxes:box|boxes} of pictures of another size, according to their "
    "annotation files; scale them to the pictures of the source",
    "no_patient_id": "no PatientID in {files:file}: each study counts as a patient; pass "
    "--subject-pattern or --subjects",
    "patients_contradict": "{patients:patient has|patients have} several names ({names}), birth dates "
    "({birth_dates}) or sexes ({sexes}) in their DICOM headers: read as {patients:patient} by PatientID "
    "or --subjects, but they may be {people:person|people} or more; separate them with --subjects or "
    "--subject-pattern",
    "patients_of_several_sites": "{patients:PatientID is|PatientIDs are} in folders of several sites: each "
    "counts as one patient; if they are different people, separate them with --subjects or --subject-pattern",
    "split_made": "the dataset has no {split} split: {patients} of its {train:training patient} now form "
    "it; pass --splits to choose them",
    "patients_in_two_sources": "same PatientID in this source and another: {patients:patient}, "
    "each counted as one person; if they are not, pass --separate-patients",
    "patients_look_alike": "identifiers of {patients:patient} differ from another only in case, "
    "punctuation or leading zeros, as pat-7 and PAT-07, and {divided:group} of them in several splits: "
    "if they are the same people, merge them with --subjects or --subject-pattern",
    "similar_images_under_two_subjects": "{images:image} of different patients are similar in "
    "{pairs:pair}, {divided} of them in two splits, so they may be copies (rescaled, cropped, mirrored, "
    "compressed): look at the volumes that --json lists; name one patient for both with --subjects",
    "similar_images_not_compared": "altered copies of images were not searched for: {images} images, the "
    "limit is {limit}",
}


class _Count(int):
    """Number whose format is a noun, with its plural where that does not end in s: `{n:file|files}`."""

    def __format__(self, nouns: str) -> str:
        return counted(int(self), *nouns.split("|")) if nouns else str(int(self))


def warning_text(warning: dict[str, Any]) -> str:
    """Return a warning of `dataset.json` as one sentence."""
    if text := _TEXTS.get(warning["kind"]):
        return text.format(
            **{key: _Count(one) if isinstance(one, int) else one for key, one in warning.items()}
        )
    splits = " and ".join(warning["splits"]) or "no split"
    patients = counted(len(warning["subjects"]), "patient")
    return f"same voxels under {patients}, in {splits}: {' '.join(warning['volumes'])}"
