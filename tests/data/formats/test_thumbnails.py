"""Thumbnails are upright, scaled to millimetres and show the label."""

import base64
import io

import numpy as np
from PIL import Image as Picture

from medmim.data.formats.nifti import Image
from medmim.data.formats.thumbnails import thumbnail
from medmim.data.formats.write_volume import encode_image


def picture_of(strip: str) -> np.ndarray:
    return np.asarray(Picture.open(io.BytesIO(base64.b64decode(strip))), int)


def test_planes_are_upright_and_in_millimetres(tmp_path):
    array = np.zeros((10, 20, 30), np.int16)
    array[:, :, 20:] = 1000  # the head's end is bright
    array[:, 15:, :] += 500  # and so is the front
    path = tmp_path / "scan.nii.gz"
    edge = 60
    for flip in (False, True):
        affine = np.diag([3.0, 1.0, 1.0, 1.0])
        turned = array[:, ::-1, ::-1] if flip else array
        if flip:
            affine = affine @ np.array([[1, 0, 0, 0], [0, -1, 0, 19], [0, 0, -1, 29], [0, 0, 0, 1.0]])
        path.write_bytes(encode_image(Image(np.ascontiguousarray(turned), affine)))
        strip = picture_of(thumbnail(str(path), None, (), edge, 95)["jpeg"])
        assert strip.shape == (edge, 3 * edge, 3)
        sagittal, coronal, axial = (strip[:, edge * k : edge * (k + 1), 0] for k in range(3))
        assert sagittal[:15, 12:40].mean() > sagittal[45:, 12:40].mean() + 50  # head above
        assert sagittal[30, 11:14].mean() > sagittal[30, 30:46].mean() + 30  # front at the left
        assert axial[12:18, 5:55].mean() > axial[30:48, 5:55].mean() + 30  # front above
        assert (coronal[30, :] > -1).all()
        assert sagittal[:, :8].max() < 20  # 20 mm wide beside 30 mm high: black at the sides


def test_each_class_is_outlined_in_its_colour(tmp_path):
    array = np.random.default_rng(0).integers(0, 90, (16, 16, 16)).astype(np.int16)
    label = np.zeros((16, 16, 16), np.uint8)
    label[3:9, 4:10, 12] = 1
    label[10:15, 4:10, 12] = 5
    for name, content in {"image": array, "label": label}.items():
        (tmp_path / f"{name}.nii.gz").write_bytes(encode_image(Image(content, np.eye(4))))
    found = thumbnail(str(tmp_path / "image.nii.gz"), str(tmp_path / "label.nii.gz"), (1, 5), 64, 95)
    strip = picture_of(found["jpeg"])
    red = (strip[..., 0] > 180) & (strip[..., 1] < 120)
    assert red[:, 128:].sum() > 50
    cyan = (strip[..., 0] < 100) & (strip[..., 1] > 140) & (strip[..., 2] > 140)
    assert cyan[:, 128:].sum() > 50


def test_a_picture_has_one_plane(tmp_path):
    path = tmp_path / "picture.nii.gz"
    path.write_bytes(encode_image(Image(np.arange(600, dtype=np.int16).reshape(20, 30, 1), np.eye(4))))
    strip = picture_of(thumbnail(str(path), None, (), 32, 90)["jpeg"])
    assert strip.shape == (32, 32, 3)
    assert strip.max() > 200


def test_boxes_are_outlined_where_there_is_no_label(tmp_path):
    path = tmp_path / "picture.nii.gz"
    path.write_bytes(encode_image(Image(np.zeros((300, 300, 1), np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]))))
    strip = picture_of(thumbnail(str(path), None, (1, 2), 30, 95, [(2, (30.5, 200.0, 100.0, 270.0))])["jpeg"])
    cyan = (strip[..., 2] > 100) & (strip[..., 0] < 120)
    rows, columns = np.nonzero(cyan)  # a picture is stored in LPS+: column from the left, row from the top
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 26, 3, 9)
