"""What sources read, what they say that they do not, and how files become pixels: without Ray."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_samples import data_config, encoded, flat_image, write_folders, write_parquet
from PIL import Image, ImageOps
from samples import special_files

from pipeline.data import SOURCES
from pipeline.data.decode import MAX_PIXELS, decode
from pipeline.errors import DataError


def folder_config(train, test, **settings):
    return data_config(source="image_folder", train=train, test=test, image_size=6, **settings)


def parquet_config(train, test, **settings):
    return data_config(source="parquet", train=train, test=test, image_size=6, **settings)


def opened(data):
    return SOURCES[data.source].open(data)


def error_of(data):
    with pytest.raises(DataError) as caught:
        opened(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def images_of(chunks):
    return [raw for chunk in chunks for raw in chunk.read()]


def labels_of(chunks):
    labels = [raw.label for raw in images_of(chunks)]
    assert labels == [label for chunk in chunks for label in chunk.labels.tolist()]
    return labels


def names_of(chunks, root):
    return [os.path.relpath(raw.where, root) for raw in images_of(chunks)]


@pytest.fixture
def held_out(tmp_path):
    return write_folders(tmp_path / "test", {"ant": 1, "bee": 1})


def test_images_of_every_kind_and_depth_are_read_and_the_rest_is_counted_and_named(tmp_path, held_out):
    train = write_folders(tmp_path / "train", {"ant": 1, "bee": 1})
    ant = train / "ant"
    (ant / "deeper" / "still").mkdir(parents=True)
    read = ["1.JPG", "2.jpeg", "3.jfif", "4.GIF", "5.webp", "6.bmp", "7.tif", "8.pgm", "deeper/still/9.png"]
    for name in read:
        (ant / name).write_bytes(b"an image")
    for name in ("a.heic", "b.HEIC", "c.txt", "README", "Thumbs.db", ".DS_Store", "._1.JPG", "d.jpg.part"):
        (ant / name).write_bytes(b"none")
    (train / "beside.jpg").write_bytes(b"an image")
    (ant / "gone.jpg").symlink_to(tmp_path / "gone")
    (ant / "linked.jpg").symlink_to(ant / "1.JPG")
    (ant / "round").symlink_to(ant)
    special_files(ant, ".jpg")
    raw = opened(folder_config(train, held_out))
    assert names_of(raw.train, ant)[:-1] == [
        "0.png", "1.JPG", "2.jpeg", "3.jfif", "4.GIF", "5.webp", "6.bmp", "7.tif", "8.pgm", "deeper/still/9.png",
        "linked.jpg",
    ]  # fmt: skip
    assert labels_of(raw.train) == [0] * 11 + [1]
    said = "\n".join(raw.notes)
    assert "11 files are not read: 3 special file, 2 .heic, 2 broken link, 1 without extension, 1 .txt, 1 .part" in said
    assert f"1 link to a folder that is read already ({ant / 'README'}, {ant / 'a.heic'}, " in said
    assert f"1 files are in no class folder and not read: 1 .jpg ({train / 'beside.jpg'})" in said
    assert f"1 images are in folders below their class folder: 1 of 'ant' ({ant / 'deeper/still/9.png'})" in said
    assert "data.test" not in said
    assert "Thumbs" not in said


def test_folders_that_links_lead_to_in_many_ways_or_that_are_very_deep_are_read_once(tmp_path, held_out):
    train = write_folders(tmp_path / "train", {"ant": 1, "bee": 1})
    for level in range(30):  # 2 ** 30 ways down
        (tmp_path / f"level-{level}").mkdir()
        for way in ("a", "b"):
            (tmp_path / f"level-{level}" / way).symlink_to(tmp_path / f"level-{level + 1}")
    write_folders(tmp_path, {"level-30": 1})
    (train / "ant" / "linked").symlink_to(tmp_path / "level-0")
    (train / "bee" / "/".join("d" * 105)).mkdir(parents=True)
    raw = opened(folder_config(train, held_out))
    assert labels_of(raw.train) == [0, 0, 1]
    assert any("30 link to a folder that is read already, 1 folder more than 100 levels" in note for note in raw.notes)


def test_sets_that_hold_no_classes_are_errors(tmp_path, held_out):
    write_folders(tmp_path / "all" / "train", {"ant": 1, "bee": 1})
    write_folders(tmp_path / "all" / "val", {"ant": 1, "bee": 1})
    message = error_of(folder_config(tmp_path / "all", held_out))
    assert "holds the folders train, val, which look like sets of images and not like classes" in message
    train = write_folders(tmp_path / "train", {"ant": 1, "bee": 0})
    (train / "bee" / "a.heic").write_bytes(b"")
    message = error_of(folder_config(train, held_out))
    assert f"no images in {train / 'bee'} of the kinds that are read (JPEG, PNG, " in message
    assert "1 files in it are not read: 1 .heic" in message
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "a.jpg").write_bytes(b"")
    assert f"{loose} holds no class folders" in error_of(folder_config(loose, held_out))
    *special, loop = special_files(tmp_path)
    for path in special:
        assert f"{path} is neither a file nor a folder" in error_of(folder_config(path, held_out))
        assert "is neither a file nor a folder" in error_of(parquet_config(path, held_out))
    assert f"{loop} is a link that leads back to itself" in error_of(folder_config(loop, held_out))
    assert f"data.train: {tmp_path}/no* matches no file or folder" in error_of(folder_config(f"{tmp_path}/no*", loose))


def test_a_set_may_be_a_list_or_a_glob(tmp_path, held_out):
    write_folders(tmp_path / "part-1", {"ant": 2, "cat": 1})
    write_folders(tmp_path / "part-2", {"ant": 1, "bee": 1})
    expected = None
    for train in ([tmp_path / "part-1", tmp_path / "part-2"], str(tmp_path / "part-*")):
        data = folder_config(train, [held_out])
        raw = opened(data)
        assert raw.class_names == ("ant", "bee", "cat")
        assert labels_of(raw.train) == [0, 0, 0, 1, 2]
        expected = expected or SOURCES["image_folder"].identity(data)
        assert SOURCES["image_folder"].identity(data) == expected
    files = [write_parquet(tmp_path / f"{number}.parquet", [0, 1] * 2) for number in range(3)]
    (tmp_path / "[1].parquet").write_bytes(files[0].read_bytes())
    for train, count in ((files, 12), (f"{tmp_path}/?.parquet", 12), ([files[0], tmp_path / "[1].parquet"], 8)):
        assert len(labels_of(opened(parquet_config(train, files[0])).train)) == count
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.PARQUET").write_bytes(files[0].read_bytes())
    (folder / "README.md").write_text("")
    assert opened(parquet_config(folder, files[0])).notes == (
        f"data.train: 1 entries of the folder are not read: 1 .md ({folder / 'README.md'})",
    )


def test_columns_are_settings(tmp_path):
    images = [{"bytes": encoded(flat_image(row)), "path": None} for row in range(4)]
    columns = {"img": images, "fine_label": [0, 1, 2, 1], "coarse_label": [0, 0, 1, 0], "caption": ["a"] * 4}
    path = tmp_path / "cifar.parquet"
    pq.write_table(pa.table(columns), path)
    named = {"image_column": "img", "label_column": "fine_label"}
    assert labels_of(opened(parquet_config(path, path, **named)).train) == [0, 1, 2, 1]
    coarse = parquet_config(path, path, **(named | {"label_column": "coarse_label"}))
    assert labels_of(opened(coarse).test) == [0, 0, 1, 0]
    assert SOURCES["parquet"].identity(coarse) != SOURCES["parquet"].identity(parquet_config(path, path, **named))
    assert "has no column 'image'; set data.image_column, did you mean 'img'?" in error_of(parquet_config(path, path))
    message = error_of(parquet_config(path, path, image_column="img"))
    assert "has no column 'label'; set data.label_column, did you mean 'fine_label'?" in message
    message = error_of(parquet_config(path, path, image_column="caption", label_column="fine_label"))
    assert "is string; data.image_column must name a column of encoded images" in message


def test_labels_may_be_names(tmp_path):
    def table(name, labels):
        return write_parquet(tmp_path / f"{name}.parquet", labels)

    train = table("train", ["dog", "ant", "dog", "bee"])
    raw = opened(parquet_config(train, table("test", pa.array(["bee", "ant"]).dictionary_encode())))
    assert raw.class_names == ("ant", "bee", "dog")
    assert (labels_of(raw.train), labels_of(raw.test)) == ([2, 0, 2, 1], [1, 0])
    message = error_of(parquet_config(train, table("other", ["bee", "dgo"])))
    assert "data.test: 'dgo' in row 1 of " in message
    assert "is a class that the training set does not have; did you mean 'dog'?" in message
    numbers = table("numbers", [0, 1])
    assert "labels are names in " in error_of(parquet_config([train, numbers], train))
    assert "holds names, but the classes of the training set are numbers" in error_of(parquet_config(numbers, train))
    missing = opened(parquet_config(table("missing", ["ant", "bee", None]), train.with_name("test.parquet"))).train
    assert [raw.label for raw in images_of(missing)] == [0, 1, None]


def hugging_face(path, names, labels=(0, 1, 2)):
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    table = pa.table({"image": [encoded(flat_image(row)) for row in range(len(labels))], "label": list(labels)})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    return path


def test_class_names_in_another_order_or_twice_are_errors(tmp_path):
    train = hugging_face(tmp_path / "train.parquet", ["ant", "bee", "cat"])
    message = error_of(parquet_config(train, hugging_face(tmp_path / "other.parquet", ["bee", "ant", "cat"])))
    assert f"data.test: 'bee' is class 0 in {tmp_path / 'other.parquet'}, but class 1 of the training set" in message
    message = error_of(parquet_config([train, tmp_path / "other.parquet"], train))
    assert "data.train: 'bee' is class 0 in" in message
    message = error_of(parquet_config(hugging_face(tmp_path / "twice.parquet", ["ant", "bee", "ant"]), train))
    assert "has the class name 'ant' twice" in message
    plain = write_parquet(tmp_path / "plain.parquet", [0, 1, 2])
    assert opened(parquet_config(train, plain)).class_names == ("ant", "bee", "cat")
    longer = hugging_face(tmp_path / "longer.parquet", ["ant", "bee", "cat", "dog"])
    assert labels_of(opened(parquet_config(train, longer)).test) == [0, 1, 2]


# --- Decoding -------------------------------------------------------------------------------------------------------


def file_of(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def two_colours():
    """16 x 24 pixels that look different in all eight orientations."""
    pixels = np.full((16, 24, 3), 255, dtype=np.uint8)
    pixels[:4], pixels[4:8, :12] = (255, 0, 0), (0, 255, 0)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("form", "options"),
    [("JPEG", {"quality": 100, "subsampling": 0}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_data_say(form, options, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(two_colours(), form, exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.abs(decode(data, 16).astype(int) - decode(file_of(upright), 16)).max() < 3


def test_exif_data_that_cannot_be_read_say_nothing():
    plain, broken = (file_of(two_colours(), "JPEG", **options) for options in ({}, {"exif": b"Exif\0\0no exif"}))
    assert np.array_equal(decode(plain, 16), decode(broken, 16))


CENTRE = np.zeros((16, 16), dtype=np.uint8)
CENTRE[4:12, 4:12] = 255


def palette_image():
    image = Image.new("P", (16, 16), 0)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.paste(1, (4, 4, 12, 12))
    return image


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (file_of(Image.fromarray(np.dstack([CENTRE * 0 + 200, CENTRE * 0, CENTRE * 0, CENTRE]))), (200, 0, 0)),
        (file_of(Image.fromarray(np.dstack([CENTRE * 0 + 100, CENTRE]), "LA")), (100,) * 3),
        (file_of(palette_image(), transparency=0), (200, 0, 0)),
        (file_of(palette_image(), transparency=bytes([0, 128])), (227, 127, 127)),
        (file_of(palette_image(), "GIF", transparency=0), (200, 0, 0)),
        (file_of(Image.fromarray(255 - CENTRE), transparency=255), (0,) * 3),
        (file_of(Image.fromarray((255 - CENTRE).astype(np.uint16) * 257), transparency=65535), (0,) * 3),
        (file_of(Image.fromarray(255 - CENTRE).convert("1"), transparency=1), (0,) * 3),
    ],
)
def test_what_is_transparent_is_laid_on_white(data, colour):
    pixels = decode(data, 16)
    assert pixels[:, 0, 0].tolist() == [255] * 3
    assert pixels[:, 8, 8].tolist() == list(colour)


@pytest.mark.parametrize(
    ("data", "corner", "centre"),
    [
        (file_of(Image.fromarray(CENTRE.astype(np.uint16) * 257)), (0,) * 3, (255,) * 3),
        (file_of(Image.fromarray(CENTRE.astype(np.uint16) * 257), "TIFF"), (0,) * 3, (255,) * 3),
        (file_of(Image.fromarray(CENTRE).convert("1")), (0,) * 3, (255,) * 3),
        (file_of(palette_image()), (10, 20, 30), (200, 0, 0)),
        (file_of(Image.fromarray(CENTRE).convert("RGB").convert("CMYK"), "JPEG", quality=100), (0,) * 3, (255,) * 3),
        (file_of(Image.fromarray(CENTRE).convert("RGB").convert("CMYK"), "TIFF"), (0,) * 3, (255,) * 3),
        (file_of(Image.fromarray(CENTRE), "BMP"), (0,) * 3, (255,) * 3),
        (file_of(Image.fromarray(CENTRE), "PPM"), (0,) * 3, (255,) * 3),
    ],
)
def test_pixels_of_every_kind_come_out_right(data, corner, centre):
    pixels = decode(data, 16).astype(int)
    assert np.abs(pixels[:, 0, 0] - corner).max() < 3
    assert np.abs(pixels[:, 8, 8] - centre).max() < 3


def test_the_first_image_of_several_is_read():
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for form, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = file_of(first, form, save_all=True, append_images=[second], **options)
        assert decode(data, 8)[:, 4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no image", "cannot identify image file"),
        (b"", "cannot identify image file"),
        (file_of(two_colours(), "EPS"), "cannot identify image file"),  # Pillow would start Ghostscript
        (file_of(two_colours(), "JPEG")[:400], ""),
        (file_of(Image.fromarray(CENTRE.astype(np.float32)), "TIFF"), "real numbers of an unknown range"),
        (file_of(Image.fromarray(CENTRE.astype(np.int32) * 2**16), "TIFF"), "more than 16 bits"),
    ],
)
def test_what_is_no_image_or_of_an_unknown_range_is_refused(data, said):
    with pytest.raises((ValueError, OSError), match=said):
        decode(data, 16)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "I;16"])
def test_what_is_turned_into_rgb_in_bands_is_the_same(mode, monkeypatch):
    generator = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(generator.integers(2**16, size=(30, 20), dtype=np.uint16))
    else:
        image = Image.fromarray(generator.integers(256, size=(30, 20, 4), dtype=np.uint8), "RGBA").convert(mode)
    data = file_of(image, "TIFF") if mode == "CMYK" else file_of(image)
    whole = decode(data, 12)
    monkeypatch.setattr("pipeline.data.decode._BAND", 70)
    assert np.array_equal(decode(data, 12), whole)


def png_header(width, height):
    """A PNG file that says its size and has no pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def tiff_with_a_tile(width, height):
    """A TIFF file of one pixel in a tile of zeros."""
    data = zlib.compress(bytes(width * height))
    tags = {256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 277: 1, 322: width, 323: height, 324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("data", "max_pixels", "said"),
    [
        (png_header(13300, 13300), 10**6, "it has more than 1000000 pixels"),
        (png_header(13300, 13300), 13300**2, "truncated|broken"),  # which is found when it is decoded
        (png_header(30000, 30000), MAX_PIXELS, "it has more than 178956970 pixels"),
        (tiff_with_a_tile(512, 256), 1000, "it has more than 1000 pixels"),
    ],
)
def test_an_image_of_too_many_pixels_is_refused_by_its_header(data, max_pixels, said):
    with pytest.raises((ValueError, OSError), match=said):
        decode(data, 16, max_pixels)


def test_a_limit_above_that_of_pillow_holds(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(file_of(Image.fromarray(CENTRE)), 16, CENTRE.size).shape == (3, 16, 16)
    assert CENTRE.size / 2 == Image.MAX_IMAGE_PIXELS
