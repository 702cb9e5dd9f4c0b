"""Room 4: whatever a photo is like, it is read right or refused with a reason."""

import io
import os

import numpy as np
import pytest
from PIL import Image

import CatDogClassifier as program
from CatDogClassifier import PhotoError, list_photos, read_photo

HALVES = np.zeros((8, 8), np.uint8)
HALVES[:, 4:] = 255  # black left, white right


def saved(tmp_path, image, name="photo.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def picture(width=8, height=8):
    """An image in which no two pixels are alike."""
    return Image.fromarray(np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_png_mode_gives_the_same_black_and_white(tmp_path, mode):
    grey = Image.fromarray(HALVES)
    image = Image.fromarray(HALVES.astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    photo = read_photo(saved(tmp_path, image), 8)
    assert photo.dtype == np.uint8
    assert np.array_equal(photo, np.repeat(HALVES[..., None], 3, axis=2))


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    image = Image.new("RGB", (16, 16), (200, 40, 90))
    path = saved(tmp_path, image.convert("CMYK"), "photo.jpg", quality=100)
    assert np.abs(read_photo(path, 8).astype(int) - (200, 40, 90)).max() <= 4


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    assert np.array_equal(read_photo(saved(tmp_path, Image.fromarray(ramp)), 8)[..., 0], ramp // 256)


def test_transparency_lies_over_white(tmp_path):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 4, 8))
    photo = read_photo(saved(tmp_path, image), 8)
    assert photo[0, 0].tolist() == [255, 0, 0]
    assert photo[0, 7].tolist() == [255, 255, 255]


UNDO = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270}


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_lies_over_white(tmp_path, mode):
    image = Image.new("RGB", (8, 8), "black").convert(mode)
    black = (0, 0, 0) if mode == "RGB" else 0
    assert (read_photo(saved(tmp_path, image, transparency=black), 8) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, orientation):
    upright = picture()
    turn = UNDO[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, upright if turn is None else upright.transpose(turn), exif=exif)
    assert np.array_equal(read_photo(path, 8), np.asarray(upright))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_a_broken_exif_block_does_not_lose_the_photo(tmp_path, exif):
    image = Image.new("RGB", (16, 16), (10, 200, 30))
    path = saved(tmp_path, image, "photo.jpg", exif=exif, quality=100)
    assert np.abs(read_photo(path, 8).astype(int) - (10, 200, 30)).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "JPEG"])
def test_content_counts_not_the_name(tmp_path, kind):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (16, 16), (0, 128, 255)).save(path, kind)
    assert np.abs(read_photo(path, 8).astype(int) - (0, 128, 255)).max() <= 6


def test_an_animation_gives_its_first_frame(tmp_path):
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    path = saved(tmp_path, red, "photo.gif", save_all=True, append_images=[blue])
    assert read_photo(path, 8)[0, 0].tolist() == [255, 0, 0]


def test_squashed_to_a_square(tmp_path):
    wide = Image.fromarray(np.repeat(HALVES, 3, axis=1))
    photo = read_photo(saved(tmp_path, wide), 8)[..., 0]
    assert (photo[:, :3] == 0).all()
    assert (photo[:, 5:] == 255).all()


def test_a_large_jpeg_decoded_small_looks_like_the_same_decoded_in_full(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
    image = coarse.resize((1600, 1200), Image.Resampling.BICUBIC)
    path = saved(tmp_path, image, "photo.jpg", quality=95)
    small = read_photo(path, 150).astype(int)
    full = np.asarray(image.resize((150, 150), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(small - full).mean() < 3


def truncated_jpeg():
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(buffer, "JPEG")
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not a photo"), (b"just some text", "not a photo"), (truncated_jpeg(), "cannot be read"),
     (b"\x89PNG\r\n\x1a\n" + bytes(40), "not a photo"), (b"GIF89a" + b"\xff" * 9, "not a photo")],
)
def test_what_is_not_a_photo_is_refused_with_a_reason(tmp_path, content, words):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=words):
        read_photo(path, 8)


def test_formats_outside_the_list_are_refused(tmp_path):
    with pytest.raises(PhotoError, match="not a photo"):
        read_photo(saved(tmp_path, picture(), "photo.tif"), 8)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = saved(tmp_path, Image.new("1", (11_000, 11_000)))
    with pytest.raises(PhotoError, match="too large|DecompressionBomb"):
        read_photo(path, 8)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PhotoError, match="not a regular file"):
        read_photo(tmp_path / "pipe.jpg", 8)


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(PhotoError, match="a folder"):
        read_photo(tmp_path, 8)
    with pytest.raises(PhotoError, match="No such file"):
        read_photo(tmp_path / "none.jpg", 8)


def test_files_are_listed_recursively_in_numeric_order_without_system_files(tmp_path):
    for name in ["cat.10.jpg", "cat.2.jpg", "Cat.1.jpg", ".DS_Store", "._cat.1.jpg", "Thumbs.db", "sub/b.jpg", "sub/.x/c.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [os.path.relpath(path, tmp_path) for path in list_photos(tmp_path)]
    assert found == ["Cat.1.jpg", "cat.2.jpg", "cat.10.jpg", os.path.join("sub", "b.jpg")]


def test_names_that_sort_alike_have_an_order_of_their_own_all_the_same():
    names = ["a1.jpg", "A1.jpg", "a01.jpg", "a001.jpg", "b.jpg", "a2.jpg"]
    assert program.natural_order(names) == program.natural_order(names[::-1])
    assert program.natural_order(names)[-2:] == ["a2.jpg", "b.jpg"]


def test_a_folder_is_listed_no_sooner_than_its_photos_are_wanted(tmp_path):
    for name in ("1/a.jpg", "2/b.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    photos = list_photos(tmp_path)
    assert next(photos) == str(tmp_path / "1" / "a.jpg")
    (tmp_path / "2" / "late.jpg").touch()
    assert list(photos) == [str(tmp_path / "2" / "b.jpg"), str(tmp_path / "2" / "late.jpg")]
    assert sorted(list_photos(tmp_path, in_order=False)) == sorted(list_photos(tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_cycle_of_links_ends(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert len(list(list_photos(tmp_path))) == 2  # the link is named once, as something that is no photo


def test_reading_ahead_keeps_the_order(tmp_path):
    paths = [saved(tmp_path, Image.new("L", (8, 8), number), f"{number}.png") for number in range(200)]
    paths.insert(100, tmp_path / "none.png")
    results = list(program.read_photos(paths, 8))
    assert [path for path, _ in results] == paths
    assert isinstance(results[100][1], PhotoError)
    assert [photo[0, 0, 0] for _, photo in results if not isinstance(photo, PhotoError)] == list(range(200))


def test_real_photos_are_all_read(real):
    photos = list(list_photos(real / "originals"))
    results = [photo for _, photo in program.read_photos(photos, 150)]
    assert len(results) == 200
    assert all(isinstance(photo, np.ndarray) and photo.shape == (150, 150, 3) for photo in results)


def test_numbers_of_any_length_are_in_order():
    names = [f"a{10**power + 1}b{10**power}.jpg" for power in range(0, 60, 3)]
    assert program.natural_order(reversed(names)) == names
    assert program.natural_order(["a0.jpg", "a00.jpg", "a1.jpg", "a-1.jpg", "ab.jpg"]) == ["a-1.jpg", "a0.jpg", "a00.jpg", "a1.jpg", "ab.jpg"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no paths of that length")
def test_folders_may_lie_deeper_than_python_calls_functions(tmp_path):
    before, depth = os.getcwd(), 1500
    try:
        os.chdir(tmp_path)
        for _ in range(depth):
            os.mkdir("a")
            os.chdir("a")
        open("x.jpg", "w").close()
        found = list(list_photos(tmp_path))
        os.unlink("x.jpg")
        for _ in range(depth):  # what pytest would do gives up at this depth
            os.chdir("..")
            os.rmdir("a")
    finally:
        os.chdir(before)
    assert found == [os.path.join(tmp_path, *["a"] * depth, "x.jpg")]


def test_no_more_photos_are_read_ahead_than_promised(tmp_path):
    path, asked = saved(tmp_path, Image.new("L", (8, 8)), "a.png"), []

    def paths():
        for number in range(1000):
            asked.append(number)
            yield path

    reads = program.read_photos(paths(), 8)
    for taken in range(1, 10):
        next(reads)
        assert len(asked) < taken + program.READ_AHEAD
    reads.close()


def test_a_folder_that_cannot_be_listed_is_named_among_the_photos(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "open.jpg").touch()
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(list_photos(tmp_path)) == [str(tmp_path / "closed"), str(tmp_path / "open.jpg")]
