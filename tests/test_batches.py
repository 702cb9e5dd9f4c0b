"""Batches: every photo once in an epoch, augmented in training only."""

import numpy as np
import pytest

import CatDogClassifier as program
from CatDogClassifier import affine_rows, blur, draw_affines, draw_crops, make_batches
from conftest import make_dataset, quick

SIZE = 12
STILL = {"turn": 0.0, "right": 0.0, "down": 0.0, "shear": 0.0, "zoom_x": 1.0, "zoom_y": 1.0}
STILL["mirror"] = False


@pytest.fixture
def photos():
    return np.random.default_rng(5).integers(0, 256, (7, SIZE, SIZE, 3), dtype=np.uint8)


# --- Augmentation ---------------------------------------------------------------------------------


def warp(photos, affines, side=None):
    """The augmentation in 0..255."""
    return program.warp(photos, affines, side).numpy() * 255


def rows(**changes):
    """One affine row that differs from standing still by the changes."""
    values = {name: np.array([value]) for name, value in (STILL | changes).items()}
    return affine_rows(**values, size=SIZE)


@pytest.mark.parametrize("mirror", [False, True])
def test_the_single_affine_is_the_product_of_the_tutorials_steps_about_the_middle(mirror):
    turn, right, down, shear = np.random.default_rng(3).uniform(-0.6, 0.6, 4)
    rotation = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    shift = [[1, 0, right], [0, 1, down], [0, 0, 1]]
    slant = [[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]]
    flip, middle = np.diag([-1 if mirror else 1, 1, 1]), (SIZE - 1) / 2
    matrix = np.array(rotation) @ shift @ slant @ np.diag([0.9, 1.15, 1]) @ flip
    to, back = ([[1, 0, there], [0, 1, there], [0, 0, 1]] for there in (middle, -middle))
    matrix = np.array(to) @ matrix @ back
    steps = {"turn": turn, "right": right, "down": down, "shear": shear, "mirror": mirror}
    found = rows(**steps, zoom_x=0.9, zoom_y=1.15)[0]
    assert found == pytest.approx(matrix[:2].ravel(), abs=1e-5)


def test_the_same_as_the_tutorials_generator():
    pytest.importorskip("scipy", reason="ImageDataGenerator needs scipy")
    generator = program.tf.keras.preprocessing.image.ImageDataGenerator(fill_mode="nearest")
    photo = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3)).astype(np.float32)
    theirs = {"theta": 25, "tx": 1.5, "ty": -2.0, "shear": 9, "zx": 0.9, "zy": 1.15}
    theirs = generator.apply_transform(photo, theirs | {"flip_horizontal": True})
    ours = {"turn": np.radians(25), "right": 1.5, "down": -2.0, "shear": np.radians(9)}
    ours = warp(photo[None], rows(**ours, zoom_x=0.9, zoom_y=1.15, mirror=True))[0]
    assert np.abs(ours - theirs).max() < 0.05


def test_the_fast_resampling_equals_the_slow_one(photos):
    """Bilinear resampling with repeated edges, from its definition."""
    affines = draw_affines(np.random.default_rng(0), len(photos), SIZE)
    y, x = np.indices((SIZE, SIZE))
    for photo, row, fast in zip(photos, affines, warp(photos, affines), strict=True):
        places = np.stack([row[3] * x + row[4] * y + row[5], row[0] * x + row[1] * y + row[2]])
        places, slow = places.clip(0, SIZE - 1), np.zeros(photo.shape)  # (2, SIZE, SIZE): y, x
        for corner in np.ndindex(2, 2):
            near = np.floor(places).astype(int) + np.reshape(corner, (2, 1, 1))
            share = (1 - np.abs(places - near)).prod(axis=0)
            slow += photo[tuple(near.clip(0, SIZE - 1))] * share[..., None]
        assert np.abs(fast - slow).max() < 0.01


def test_mirrors_and_whole_pixel_shifts_are_exact(photos):
    one = photos[:1]

    def exact(row):
        """The pixels in 0..255; dividing by 255 and back costs the last bit of a float32."""
        pixels = warp(one, row)
        assert np.abs(pixels - pixels.round()).max() < 2e-5
        return pixels.round()

    assert np.array_equal(exact(rows()), one)
    assert np.array_equal(exact(rows(mirror=True)), one[:, :, ::-1])
    shifted = exact(rows(down=2.0, right=3.0))
    assert np.array_equal(shifted[:, :-2, :-3], one[:, 2:, 3:])
    assert np.array_equal(shifted[0, -1, :-3], one[0, -1, 3:])  # the edge is repeated


def parameters(affines, size):
    """What affine rows were made of: {"turn", "right", ...}, each (N,); turns below 90 degrees."""
    xx, xy, x0, yx, yy, y0 = affines[:, :6].astype(float).T
    side, middle = np.sign(xx), (size - 1) / 2
    turn = np.arctan2(yx * side, xx * side)
    shift = x0 - middle * (1 - xx - xy) + 1j * (y0 - middle * (1 - yx - yy))
    shift *= np.exp(-1j * turn)
    found = {"turn": turn, "shear": np.arctan2(-xy, yy) - turn, "mirror": side < 0}
    found |= {"right": shift.real, "down": shift.imag}
    return found | {"zoom_x": np.hypot(xx, yx), "zoom_y": np.hypot(xy, yy)}


def test_augmentations_are_drawn_from_the_tutorials_ranges():
    drawn = parameters(draw_affines(np.random.default_rng(0), 20_000, 100), 100)
    turn, shear = np.radians(40), np.radians(0.2)
    ends = {"turn": (-turn, turn), "shear": (-shear, shear), "zoom_x": (0.8, 1.2)}
    ends |= {"down": (-20, 20), "right": (-20, 20), "zoom_y": (0.8, 1.2)}
    for name, (low, high) in ends.items():  # 20,000 uniform draws come that close to the ends
        found = drawn[name].min(), drawn[name].max()
        assert found == pytest.approx((low, high), abs=(high - low) / 500), name
        assert drawn[name].mean() == pytest.approx((low + high) / 2, abs=(high - low) / 50), name
    assert drawn["mirror"].mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(drawn["zoom_y"], drawn["zoom_x"])[0, 1]) < 0.05  # each on its own


def test_crops_lie_within_the_photo_with_area_shape_and_light_in_range():
    changes = draw_crops(np.random.default_rng(0), 20_000, 100)
    drawn = parameters(changes, 100)
    wide, high = 100 * drawn["zoom_x"], 100 * drawn["zoom_y"]  # pixels of the photo that are seen
    assert (np.abs(drawn["right"]) + wide / 2).max() == pytest.approx(50, abs=0.1)
    assert (np.abs(drawn["down"]) + high / 2).max() == pytest.approx(50, abs=0.1)
    area, shape = wide * high / 1e4, wide / high
    assert (area.min(), area.max()) == pytest.approx((0.35, 1.0), abs=0.005)
    assert (shape.min(), shape.max()) == pytest.approx((np.exp(-0.25), np.exp(0.25)), abs=0.002)
    turns = np.degrees((drawn["turn"].min(), drawn["turn"].max()))
    assert turns == pytest.approx((-10, 10), abs=0.02)
    assert np.abs(drawn["shear"]).max() < 1e-5
    assert drawn["mirror"].mean() == pytest.approx(0.5, abs=0.02)
    gains, lift = changes[:, 6:9], changes[:, 9]
    middle = 0.5 * gains.mean(axis=1) + lift  # of a middle grey: contrast changes about that
    assert (middle.min(), middle.max()) == pytest.approx((0.4, 0.6), abs=0.001)
    assert (gains.min(), gains.max()) == pytest.approx((0.8 * 0.9, 1.2 * 1.1), abs=0.02)
    # Contrast by 0.2 for all colours, cast by 0.1 for each: variances 4 : 1.
    assert np.corrcoef(gains[:, 0], gains[:, 2])[0, 1] == pytest.approx(4 / 5, abs=0.03)
    shares = np.bincount(changes[:, 10].astype(int)) / 20_000  # of how often they are halved
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.01)


def test_colours_change_by_a_factor_and_something_to_add(photos):
    changed = warp(photos[:1], np.float32([[*rows()[0], 0.5, 1.0, 2.0, 0.1, 0]]))
    expected = (photos[:1] / 255 * [0.5, 1.0, 2.0] + 0.1).clip(0, 1) * 255
    assert changed == pytest.approx(expected, abs=1e-3)


def halved(photos):
    """Half as many pixels a side: each one is the average of four."""
    pixels = photos / 4
    return pixels[:, ::2, ::2] + pixels[:, ::2, 1::2] + pixels[:, 1::2, ::2] + pixels[:, 1::2, 1::2]


def test_smaller_photos_show_the_same_part(photos):
    quarters = halved(photos)  # each pixel lies in the middle of four
    still = np.repeat(rows(), len(photos), axis=0)
    assert warp(photos, still, SIZE // 2) == pytest.approx(quarters, abs=1e-3)
    mirrored = warp(photos[:1], rows(mirror=True), SIZE // 2)
    assert mirrored == pytest.approx(quarters[:1, :, ::-1], abs=1e-3)


@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_a_blurred_photo_is_a_small_one_drawn_large(photos, halvings):
    small, side = photos[:1], SIZE >> halvings
    for _ in range(halvings):
        small = halved(small)
    middles = ((np.arange(SIZE) + 0.5) / 2**halvings - 0.5).clip(0, side - 1)
    weights = np.maximum(1 - np.abs(middles[:, None] - np.arange(side)), 0)  # (SIZE, side)
    large = np.einsum("ya,xb,abc->yxc", weights, weights, small[0])
    found = blur(photos[0], halvings)
    assert found.dtype == np.uint8
    assert np.abs(found - large).max() <= 1.5 * bool(halvings)  # it is rounded thrice
    odd = np.full((7, 7, 3), 90, np.uint8)
    assert np.array_equal(blur(odd, halvings), odd)


# --- Epochs ---------------------------------------------------------------------------------------


def epoch(batches):
    """All photos and labels of one pass: (N, size, size, 3), (N, 1); the sizes of the batches."""
    parts = [(photos.numpy(), labels.numpy()) for photos, labels in batches]
    photos, labels = map(np.concatenate, zip(*parts, strict=True))
    return photos, labels, [len(part) for part, _ in parts]


def numbers(count):
    return np.arange(count, dtype=np.float32)[:, None]


def numbered(count):
    """Photos that can be told by their brightness, with that number as label."""
    values = numbers(count).astype(np.uint8).reshape(count, 1, 1, 1)
    return np.broadcast_to(values, (count, SIZE, SIZE, 3)), numbers(count)


def feed(photos, labels, size, augment=draw_affines, **more):
    rng = np.random.default_rng(0)
    return make_batches(photos, labels, size, rng=rng, augment=augment, **more)


def test_an_epoch_holds_every_photo_once_with_its_label_and_the_last_batch_too():
    batches = feed(*numbered(50), 8)
    photos, labels, sizes = epoch(batches)
    assert (sizes, len(batches)) == ([8, 8, 8, 8, 8, 8, 2], 7)
    assert sorted(labels[:, 0]) == list(range(50))
    assert np.allclose(photos[:, 0, 0, 0] * 255, labels[:, 0], atol=1e-4)  # still its own label
    assert photos.dtype == labels.dtype == np.float32


def test_each_epoch_is_shuffled_and_augmented_anew(photos):
    batches = feed(photos, numbers(7), 3)
    first, second = epoch(batches), epoch(batches)
    assert first[1][:, 0].tolist() != second[1][:, 0].tolist()
    by_label = [pixels[np.argsort(labels[:, 0])] for pixels, labels, _ in (first, second)]
    assert not np.isclose(*by_label).all(axis=(1, 2, 3)).any()


def test_validation_photos_are_neither_augmented_nor_shuffled(photos):
    pixels, labels, sizes = epoch(make_batches(photos, numbers(7), 3))
    assert np.allclose(pixels, photos / 255.0, atol=1e-7)
    assert np.array_equal(labels, numbers(7))
    assert sizes == [3, 3, 1]


def test_features_pass_as_they_are_and_labels_of_more_classes_are_one_hot():
    features = np.random.default_rng(0).normal(size=(6, 2, 2, 9)).astype(np.float32)
    found, labels, _ = epoch(make_batches(features, numbers(6) % 3, 2, classes=3))
    assert np.array_equal(found, features)
    assert np.array_equal(labels, np.eye(3)[[0, 1, 2, 0, 1, 2]])


def test_an_epoch_of_steps_goes_over_the_photos_as_often_as_it_takes():
    photos, labels, sizes = epoch(feed(*numbered(9), 4, augment=None, steps=5))
    assert sizes == [4] * 5
    assert sorted(labels[:9, 0]) == sorted(labels[9:18, 0]) == list(range(9))
    assert np.allclose(photos[:, 0, 0, 0] * 255, labels[:, 0], atol=1e-4)


def test_three_in_ten_crops_have_lost_detail():
    stripes = np.zeros((400, SIZE, SIZE, 3), np.uint8)
    stripes[:, :, ::2] = 255  # of these nothing is left in a photo of half as many pixels
    pixels, _, _ = epoch(feed(stripes, numbers(400), 100, augment=draw_crops))
    lost = pixels.std(axis=(1, 2)).max(axis=1) < 0.02
    assert lost.mean() == pytest.approx(0.3, abs=0.05)


def test_classes_of_unequal_size_count_the_same_in_training_by_weights(tmp_path):
    data = make_dataset(tmp_path, {"train": 6, "validation": 2})
    for number in (2, 3, 4, 5):
        (data / "train" / "cat" / f"cat.{number}.png").unlink()  # 2 cats are left, 6 dogs
    train, validation = quick(tmp_path, model="happy").load_data(data)
    parts = [tuple(part.numpy() for part in batch) for batch in train]
    labels, weights = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    assert sorted(labels[:, 0]) == [0] * 2 + [1] * 6
    assert np.array_equal(weights, np.where(labels == 0, 8 / (2 * 2), 8 / (2 * 6)).astype("f4"))
    assert all(len(batch) == 2 for batch in validation)  # as many of each: no weights
