"""Room 6: every training photo once an epoch, augmented as in the tutorial; validation photos untouched."""

import errno
import os
import types

import numpy as np
import pytest

import CatDogClassifier as program
from CatDogClassifier import affine_rows, draw_affines, draw_crops, make_batches
from conftest import make_dataset

SIZE = 12
STILL = {"turn": 0.0, "right": 0.0, "down": 0.0, "shear": 0.0, "zoom_x": 1.0, "zoom_y": 1.0, "mirror": False}


def warp(photos, affines, side=None):
    """The augmentation as it runs, compiled, in 0..255."""
    import tensorflow as tf

    return tf.function(program.warp, jit_compile=True)(photos, affines, side).numpy() * 255


@pytest.fixture
def photos():
    return np.random.default_rng(5).integers(0, 256, (7, SIZE, SIZE, 3), dtype=np.uint8)


def rows(**changes):
    """One affine row that differs from standing still by the changes."""
    return affine_rows(**{name: np.array([value]) for name, value in {**STILL, **changes}.items()}, size=SIZE)


def slow_warp(photo, row):
    """Bilinear resampling with repeated edges, pixel by pixel."""
    result = np.empty(photo.shape)
    for y in range(SIZE):
        for x in range(SIZE):
            from_x = min(max(row[0] * x + row[1] * y + row[2], 0), SIZE - 1)
            from_y = min(max(row[3] * x + row[4] * y + row[5], 0), SIZE - 1)
            x0, y0 = int(from_x), int(from_y)
            x1, y1, fx, fy = min(x0 + 1, SIZE - 1), min(y0 + 1, SIZE - 1), from_x - x0, from_y - y0
            top = photo[y0, x0] * (1 - fx) + photo[y0, x1] * fx
            bottom = photo[y1, x0] * (1 - fx) + photo[y1, x1] * fx
            result[y, x] = top * (1 - fy) + bottom * fy
    return result


def slow_map(turn, right, down, shear, zoom_x, zoom_y, mirror):
    """The tutorial's transformation of (x, y) as a product of matrices about the middle: output -> input."""
    rotation = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    shift = [[1, 0, right], [0, 1, down], [0, 0, 1]]
    slant = [[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]]
    zoom = np.diag([zoom_x, zoom_y, 1])
    side = np.diag([-1 if mirror else 1, 1, 1])
    middle = (SIZE - 1) / 2
    to, back = np.array([[1, 0, middle], [0, 1, middle], [0, 0, 1]]), np.array([[1, 0, -middle], [0, 1, -middle], [0, 0, 1]])
    return to @ np.array(rotation) @ shift @ slant @ zoom @ side @ back


def test_the_single_affine_is_the_product_of_the_tutorials_steps():
    rng = np.random.default_rng(3)
    for mirror in (False, True):
        step = dict(zip(("turn", "right", "down", "shear"), rng.uniform(-0.6, 0.6, 4), strict=True))
        step |= {"zoom_y": rng.uniform(0.8, 1.2), "zoom_x": rng.uniform(0.8, 1.2), "mirror": mirror}
        matrix = slow_map(**step)
        assert rows(**step)[0] == pytest.approx([*matrix[0], *matrix[1]], abs=1e-5)


def test_the_fast_resampling_equals_the_slow_one(photos):
    affines = draw_affines(np.random.default_rng(0), len(photos), SIZE)
    fast = warp(photos, affines)
    slow = [slow_warp(photo.astype(float), row.astype(float)) for photo, row in zip(photos, affines, strict=True)]
    assert np.abs(fast - slow).max() < 0.01


def test_mirrors_and_whole_pixel_shifts_are_exact(photos):
    def exact(photos, row):
        """The pixels in 0..255; dividing by 255 and back costs the last bit of a float32, no more."""
        pixels = warp(photos, row)
        assert np.abs(pixels - pixels.round()).max() < 2e-5
        return pixels.round()

    assert np.array_equal(exact(photos[:1], rows()), photos[:1])
    assert np.array_equal(exact(photos[:1], rows(mirror=True)), photos[:1, :, ::-1])
    shifted = exact(photos[:1], rows(down=2.0, right=3.0))
    assert np.array_equal(shifted[:, :-2, :-3], photos[:1, 2:, 3:])
    assert np.array_equal(shifted[0, -1, :-3], photos[0, -1, 3:])  # the edge is repeated


def test_augmentations_are_drawn_from_the_tutorials_ranges(monkeypatch):
    drawn = {}
    monkeypatch.setattr(program, "affine_rows", lambda **values: drawn.update(values))
    draw_affines(np.random.default_rng(0), 20_000, 100)
    degrees = {"turn": 40, "shear": 0.2}
    for name, (low, high) in {"turn": (-40, 40), "shear": (-0.2, 0.2), "down": (-20, 20), "right": (-20, 20),
                              "zoom_y": (0.8, 1.2), "zoom_x": (0.8, 1.2)}.items():
        values = np.degrees(drawn[name]) if name in degrees else drawn[name]
        near = (high - low) / 500  # 20,000 uniform draws come closer to the ends than that
        assert low <= values.min() < low + near, name
        assert high - near < values.max() <= high, name
    assert drawn["mirror"].mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(drawn["zoom_y"], drawn["zoom_x"])[0, 1]) < 0.05  # each axis on its own


def test_crops_lie_within_the_photo_and_have_its_area_and_shape_in_range(monkeypatch):
    drawn = {}
    monkeypatch.setattr(program, "affine_rows", lambda **values: drawn.update(values) or np.zeros((20_000, 6)))
    changes = draw_crops(np.random.default_rng(0), 20_000, 100)
    wide, high = 100 * drawn["zoom_x"], 100 * drawn["zoom_y"]  # pixels of the photo that are seen
    assert (np.abs(drawn["right"]) + wide / 2).max() == pytest.approx(50, abs=0.1)
    assert (np.abs(drawn["down"]) + high / 2).max() == pytest.approx(50, abs=0.1)
    area, shape = wide * high / 1e4, wide / high
    assert (area.min(), area.max()) == pytest.approx((0.35, 1.0), abs=0.005)
    assert (shape.min(), shape.max()) == pytest.approx((np.exp(-0.25), np.exp(0.25)), abs=0.002)
    assert np.degrees((drawn["turn"].min(), drawn["turn"].max())) == pytest.approx((-10, 10), abs=0.02)
    assert drawn["mirror"].mean() == pytest.approx(0.5, abs=0.02)
    gains, lift = changes[:, 6:9], changes[:, 9]
    middle = 0.5 * gains.mean(axis=1) + lift  # what becomes of a middle grey: its contrast is changed about that
    assert (middle.min(), middle.max()) == pytest.approx((0.4, 0.6), abs=0.001)
    assert gains.min() >= 0.8 * 0.9 and gains.max() <= 1.2 * 1.1
    assert np.bincount(changes[:, 10].astype(int)) / 20_000 == pytest.approx([0.7, 0.2, 0.1], abs=0.01)  # halved so often
    assert np.corrcoef(gains[:, 0], gains[:, 2])[0, 1] == pytest.approx(4 / 5, abs=0.03)  # contrast 0.2, cast 0.1: variances 4 : 1


def test_colours_change_by_a_factor_and_something_to_add(photos):
    same = rows()[0]
    changed = warp(photos[:1], np.float32([[*same, 0.5, 1.0, 2.0, 0.1, 0]]))
    expected = (photos[:1] / 255 * [0.5, 1.0, 2.0] + 0.1).clip(0, 1) * 255
    assert changed == pytest.approx(expected, abs=1e-3)


def halved(photos):
    """Half as many pixels a side: each one is the average of four."""
    return photos[:, ::2, ::2] / 4 + photos[:, ::2, 1::2] / 4 + photos[:, 1::2, ::2] / 4 + photos[:, 1::2, 1::2] / 4


def test_photos_lose_detail_as_if_they_had_been_small(photos):
    """Small and large again it keeps its mean and its coarse parts, and loses what is between two neighbours."""
    for halvings in (1, 2):
        blurred = program.blur(photos[0], halvings).astype(float)
        assert blurred.mean() == pytest.approx(photos[0].mean(), abs=1.5)
        assert np.abs(np.diff(blurred, axis=1)).mean() < 0.6 * np.abs(np.diff(photos[0].astype(float), axis=1)).mean()
    assert (program.blur(photos[0], 0) == photos[0]).all()
    assert program.blur(np.full((9, 9, 1), 77, np.uint8), 2).tolist() == np.full((9, 9, 1), 77).tolist()


def test_photos_of_odd_sides_lose_detail_without_taking_any_from_another():
    photos = np.repeat(np.arange(3, dtype=np.uint8) * 100, 7 * 7 * 3).reshape(3, 7, 7, 3)
    same = affine_rows(**{name: np.zeros(1) + value for name, value in STILL.items()}, size=7)[0]
    changed = warp(photos, np.float32([[*same, 1, 1, 1, 0, level] for level in (1, 2, 1)]))
    assert changed == pytest.approx(photos, abs=1e-3)


def test_smaller_photos_show_the_same_part(photos):
    quarters = halved(photos)  # each pixel lies in the middle of four
    assert warp(photos, np.repeat(rows(), len(photos), axis=0), SIZE // 2) == pytest.approx(quarters, abs=1e-3)
    mirrored = warp(photos[:1], rows(mirror=True), SIZE // 2)
    assert mirrored == pytest.approx(quarters[:1, :, ::-1], abs=1e-3)
    sides = iter((5, 6))
    batches = make_batches(photos, np.zeros((7, 1)), 4, np.random.default_rng(0), draw_crops, side=lambda: next(sides))
    assert [batch.shape[1:3] for _ in range(2) for batch, _ in batches] == [(5, 5), (5, 5), (6, 6), (6, 6)]


def test_the_same_as_the_tutorials_generator():
    pytest.importorskip("scipy", reason="ImageDataGenerator needs scipy")
    import tensorflow as tf

    generator = tf.keras.preprocessing.image.ImageDataGenerator(fill_mode="nearest")
    photo = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3)).astype(np.float32)
    step = {"turn": np.radians(25), "right": 1.5, "down": -2.0, "shear": np.radians(9), "zoom_x": 0.9, "zoom_y": 1.15}
    theirs = generator.apply_transform(photo, {
        "theta": 25, "tx": 1.5, "ty": -2.0, "shear": 9, "zx": 0.9, "zy": 1.15, "flip_horizontal": True})
    ours = warp(photo[None], rows(**step, mirror=True))[0]
    assert np.abs(ours - theirs).max() < 0.05


def epoch(batches):
    """All photos and labels of one pass: (N, size, size, 3), (N, 1), and the sizes of the batches."""
    parts = [(photos.numpy(), labels.numpy()) for photos, labels in batches]
    return np.concatenate([p for p, _ in parts]), np.concatenate([t for _, t in parts]), [len(p) for p, _ in parts]


def numbered(count):
    """Photos that can be told by their brightness, with that number as label."""
    photos = np.repeat(np.arange(count, dtype=np.uint8), SIZE * SIZE * 3).reshape(count, SIZE, SIZE, 3)
    return photos, np.arange(count, dtype=np.float32)[:, None]


def test_an_epoch_holds_every_photo_once_with_its_label_and_the_last_batch_too():
    photos, labels, sizes = epoch(make_batches(*numbered(50), 8, np.random.default_rng(0), augment=draw_affines))
    assert sizes == [8, 8, 8, 8, 8, 8, 2]
    assert sorted(labels[:, 0]) == list(range(50))
    assert np.allclose(photos[:, 0, 0, 0] * 255, labels[:, 0], atol=1e-4)  # each photo still has its own label
    assert photos.dtype == labels.dtype == np.float32


def test_each_epoch_is_shuffled_and_augmented_anew(photos):
    batches = make_batches(photos, np.arange(7, dtype=np.float32)[:, None], 3, np.random.default_rng(0), augment=draw_affines)
    first, second = epoch(batches), epoch(batches)
    assert first[1][:, 0].tolist() != second[1][:, 0].tolist()
    by_label = [pixels[np.argsort(labels[:, 0])] for pixels, labels, _ in (first, second)]
    assert not np.allclose(by_label[0], by_label[1])


def test_validation_photos_are_neither_augmented_nor_shuffled(photos):
    labels = np.arange(7, dtype=np.float32)[:, None]
    pixels, truth, sizes = epoch(make_batches(photos, labels, 3))
    assert np.allclose(pixels, photos / 255.0, atol=1e-7)
    assert np.array_equal(truth, labels)
    assert sizes == [3, 3, 1]


def test_the_same_seed_gives_the_same_batches(photos):
    labels = np.zeros((7, 1), np.float32)
    one, two, other = (epoch(make_batches(photos, labels, 3, np.random.default_rng(seed), augment=draw_affines))[0] for seed in (4, 4, 5))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_an_unreadable_photo_is_named_and_left_out(tmp_path, capsys):
    data = make_dataset(tmp_path, {"train": 3})
    (data / "train/cat/cat.1.png").write_bytes(b"broken")
    photos, labels = program.load_photos(program.list_split(data, "train"), SIZE, program.Console(quiet=True))
    assert labels[:, 0].tolist() == [0, 0, 1, 1, 1]
    assert np.array_equal(photos[1], program.read_photo(data / "train/cat/cat.2.png", SIZE))
    assert "cat.1.png: not a photo" in capsys.readouterr().err


def test_a_class_without_a_single_readable_photo_is_an_error(tmp_path):
    data = make_dataset(tmp_path, {"train": 2})
    for path in (data / "train/dog").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(program.DatasetError, match="dog"):
        program.load_photos(program.list_split(data, "train"), SIZE, program.Console(quiet=True))


def load(data, size=SIZE, console=None):
    return program.load_photos(program.list_split(data, "train"), size, console or program.Console(quiet=True))


@pytest.fixture
def counted(monkeypatch):
    """The paths of the photos that are decoded."""
    paths, read = [], program.read_photo
    monkeypatch.setattr(program, "read_photo", lambda path, size: (paths.append(path), read(path, size))[1])
    return paths


def test_a_photo_is_decoded_once_and_then_taken_from_mapped_memory(tmp_path, counted):
    data = make_dataset(tmp_path, {"train": 3})
    photos, labels = load(data)
    assert len(counted) == 6
    again = load(data)
    assert len(counted) == 6
    assert np.array_equal(again[0], photos)
    assert np.array_equal(again[1], labels)
    assert np.array_equal(photos, [program.read_photo(path, SIZE) for path in program.list_photos(data / "train")])
    assert isinstance(photos, np.memmap)
    assert not photos.flags.writeable


def change(path):
    """Another content of the same length, no photo any more, its time of change put back."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("event", ["changed", "added", "removed", "replaced by a link"])
def test_photos_that_changed_are_decoded_anew(tmp_path, counted, event):
    data = make_dataset(tmp_path / "data", {"train": 3})
    load(data)
    counted.clear()
    photo = data / "train/cat/cat.1.png"
    if event == "changed":
        change(photo)
    elif event == "added":
        (data / "train/cat/cat.9.png").write_bytes(photo.read_bytes())
    else:
        photo.rename(tmp_path / "away.png")
        if event == "replaced by a link":
            photo.symlink_to(data / "train/dog/dog.0.png")
    photos, _ = load(data)
    assert len(counted) == len(list(program.list_photos(data)))
    assert len(photos) == len(counted) - (event == "changed")
    if event == "replaced by a link":
        assert np.array_equal(photos[1], photos[3])


def test_each_size_and_each_split_has_a_cache_of_its_own(tmp_path, counted):
    data = make_dataset(tmp_path, {"train": 2, "test": 2})
    for _ in range(2):
        assert load(data, 8)[0].shape == (4, 8, 8, 3)
        assert load(data, 9)[0].shape == (4, 9, 9, 3)
        program.load_photos(program.list_split(data, "test"), 8, program.Console(quiet=True))
    assert len(counted) == 12


def test_a_cache_that_was_cut_short_is_made_again(tmp_path, counted, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = make_dataset(tmp_path / "data", {"train": 3})
    photos = np.array(load(data)[0])
    (cache,) = program.cache_folder().iterdir()
    cache.write_bytes(cache.read_bytes()[:-500])
    assert np.array_equal(load(data)[0], photos)
    assert len(counted) == 12


def test_a_photo_that_was_left_out_is_named_from_the_cache_too(tmp_path, counted, capsys):
    data = make_dataset(tmp_path, {"train": 3})
    (data / "train/dog/dog.0.png").write_bytes(b"broken")
    one, two = load(data), load(data)
    said = capsys.readouterr().err.splitlines()
    assert len(counted) == 6
    assert len(said) == 2
    assert said[0] == said[1]
    assert "dog.0.png: not a photo" in said[0]
    assert one[1][:, 0].tolist() == two[1][:, 0].tolist() == [0, 0, 0, 1, 1]


def test_without_a_place_for_a_cache_the_photos_are_held_in_memory(tmp_path, monkeypatch, capsys):
    data = make_dataset(tmp_path / "data", {"train": 3})
    (data / "train/cat/cat.1.png").write_bytes(b"broken")
    (tmp_path / "cache").write_bytes(b"a file, not a folder")
    photos, labels = load(data)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    capsys.readouterr()
    console = program.Console(quiet=True)
    load(data, console=console)
    again = load(data, console=console)
    said = capsys.readouterr().err
    assert said.count("held in memory") == 1  # once is enough
    assert said.count("left out") == 2
    assert np.array_equal(again[0], photos)
    assert np.array_equal(again[1], labels)


def test_the_photos_themselves_are_left_alone_by_the_cache(tmp_path):
    data = make_dataset(tmp_path, {"train": 2})
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in data.rglob("*.png")}
    load(data)
    program.clear_cache()
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in data.rglob("*") if path.is_file()} == before


def test_a_photo_that_could_not_be_read_for_a_passing_reason_is_tried_again(tmp_path, monkeypatch, capsys):
    data, opened = make_dataset(tmp_path, {"train": 3}), program.open_regular

    def fail(path, *limit):
        if str(path).endswith("cat.1.png"):
            raise OSError(errno.EIO, "Input/output error")
        return opened(path)

    monkeypatch.setattr(program, "open_regular", fail)
    assert len(load(data)[0]) == 5
    assert "cat.1.png: cannot be read: Input/output error" in capsys.readouterr().err
    monkeypatch.setattr(program, "open_regular", opened)
    assert len(load(data)[0]) == 6


def test_a_cache_that_vanishes_at_once_costs_time_only(tmp_path, monkeypatch, capsys):
    data = make_dataset(tmp_path, {"train": 3})
    (data / "train/cat/cat.0.png").write_bytes(b"broken")
    monkeypatch.setattr(program, "read_cache", lambda name, state: None)
    photos, labels = load(data)
    assert len(photos) == len(labels) == 5
    assert capsys.readouterr().err.count("cat.0.png") == 1


STAT = {"st_size": 5, "st_mtime_ns": 6, "st_ctime_ns": 7}


@pytest.mark.parametrize("change", [{"st_size": 4}, {"st_mtime_ns": 4}, {"st_ctime_ns": 4}, "path", "pixels", "Pillow", "gone"])
def test_whatever_decides_how_a_photo_is_decoded_is_part_of_the_state(change, monkeypatch):
    def state(path="a.jpg", size=150, **stat):
        monkeypatch.setattr(os, "stat", lambda path: types.SimpleNamespace(**{**STAT, **stat}))
        return program.state_of([path], size)

    def missing(path):
        raise FileNotFoundError(2, "No such file or directory")

    before = state()
    assert before == state()
    if change == "Pillow":
        monkeypatch.setattr(program.PIL, "__version__", "0.1")
    if change == "gone":
        monkeypatch.setattr(os, "stat", missing)
        assert program.state_of(["a.jpg"], 150) != before
    else:
        assert {"path": lambda: state("b.jpg"), "pixels": lambda: state(size=151), "Pillow": state}.get(
            str(change), lambda: state(**change))() != before
