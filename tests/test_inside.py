"""Looking inside: heatmaps and activations of nets whose answers are known by hand."""

import json
import os
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from test_nets import SMALL, save, scrambled
from test_photos import oriented

import CatDogClassifier as program
from CatDogClassifier import CatDogClassifier, UsageError, keras, layers
from conftest import refusal, slow, tint

PHOTO = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
KINDS = ["heatmap", "activations", "augmented"]


def by_hand(classes=2, bias=0.0):
    """A net to compute by hand: a 1x1 convolution, red and blue, averages, one dense layer."""
    photos = keras.Input((4, 4, 3))
    maps = layers.Conv2D(2, 1, name="maps")(photos)
    averages = layers.GlobalAveragePooling2D()(layers.MaxPooling2D(1)(maps))
    kind = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    model = keras.Model(photos, layers.Dense(*kind)(averages))
    kernel = np.zeros((1, 1, 3, 2))
    kernel[0, 0, 0, 0] = kernel[0, 0, 2, 1] = 1
    weights = np.array([[2], [-3]] if classes == 2 else [[2, 0, -1], [-3, 1, 0]])
    model.set_weights([kernel, np.zeros(2), weights, np.full(weights.shape[1], bias)])
    return model


@pytest.mark.parametrize("bias", [0, 1000])  # a probability of 1 has no slope, the logit has
@pytest.mark.parametrize("case", [(2, 1, 2, -3), (2, 0, -2, 3), (3, 0, 2, -3), (3, 1, 0, 1)])
def test_grad_cam_is_what_one_computes_by_hand(case, bias):
    classes, place, red, blue = case
    expected = np.maximum(red * (PHOTO[..., 0] / 255) + blue * (PHOTO[..., 2] / 255), 0)
    found = program.grad_cam(by_hand(classes, bias), PHOTO, place)
    assert found == pytest.approx(expected / expected.max(), abs=1e-5)


def test_what_speaks_against_a_class_is_left_out_of_its_heatmap():
    assert not program.grad_cam(by_hand(3), PHOTO, 2).any()  # red speaks against it, blue is nought


def test_activations_are_those_of_the_layers():
    (name, maps), (_, pooled) = program.layer_activations(by_hand(), PHOTO)
    assert name == "maps" and maps == pytest.approx(PHOTO[..., [0, 2]] / 255, abs=1e-6)
    assert np.array_equal(maps, pooled)


def pictures(figure):
    """The pictures of a Figure, as arrays."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def test_activations_are_shown_as_in_the_tutorial_in_rows_of_sixteen(tmp_path):
    """Mean 128, deviation 64, each map for itself."""
    photo = tmp_path / "a.png"
    tint("cat", np.random.default_rng(0)).save(photo)
    classifier = CatDogClassifier(weights=save(scrambled("mnist"), "mnist", tmp_path / "net.h5"))
    first, *_ = pictures(classifier.explain(photo)[1]["activations"])
    pixels = program.read_photo(photo, 28)
    (_, maps), *_ = program.layer_activations(scrambled("mnist"), pixels)  # (26, 26, 32)
    spread = maps.std(axis=(0, 1))
    expected = (maps - maps.mean(axis=(0, 1))) / np.where(spread, spread, 1) * 64 + 128
    assert first.shape == (2 * 26 + 1, 16 * 26 + 15)
    for number, (top, left) in ((0, (0, 0)), (1, (0, 27)), (17, (27, 27))):
        shown = first[top : top + 26, left : left + 26].astype(float)
        assert shown == pytest.approx(expected[..., number].clip(0, 255), abs=1.01)
    assert (first[26] == 255).all() and (first[:, 26] == 255).all()


@pytest.mark.parametrize("hot", [False, True])
def test_a_heatmap_covers_the_photo_as_it_lies_upright(hot, tmp_path):
    image = Image.new("RGB", (80, 40))
    image.paste((255, 255, 255), (0, 0, 20, 40))  # on the left: turned, at the top
    image.save(tmp_path / "lying.png", exif=oriented(6))
    classifier = CatDogClassifier(model="mnist", quiet=True)
    model = classifier.createModel()
    model.set_weights([np.zeros_like(array) for array in model.get_weights()])
    if hot:  # one path through the net, from the light of a pixel to the first class
        for layer in model.layers:
            if layer.weights:
                kernel, bias = layer.get_weights()
                kernel[..., 0] = 1 if isinstance(layer, layers.Dense) else 0
                kernel[..., 0, 0] = 1
                layer.set_weights([kernel, bias])
    row, figures = classifier.explain(tmp_path / "lying.png")
    (shown,) = map(np.int64, pictures(figures["heatmap"]))
    left, right = shown[:, :490], shown[:, -490:]
    assert shown.shape == (490, 490 + 8 + 490, 3)
    assert np.array_equal(left, program.read_photo(tmp_path / "lying.png", 490))
    if hot:  # red where it is hot, blue where it is not
        assert row.label == "0"
        difference = right[..., 0] - right[..., 2]
        assert difference[:40].mean() > 20 > difference[-40:].mean()
    else:  # 0.6 of the photo, 0.4 of the lowest colour of "turbo": 48, 18, 59
        assert (right[0, 0].tolist(), right[-1, -1].tolist()) == ([172, 160, 177], [19, 7, 24])


@pytest.mark.parametrize("name", ["happy", "mnist", "signs", *slow("frozen", "residual")])
def test_every_kind_of_net_explains_itself_or_says_that_it_has_nothing_to_show(name, tmp_path):
    photo = tmp_path / "a.png"
    tint("cat", np.random.default_rng(0)).save(photo)
    path = save(scrambled(name), name, tmp_path / "net.h5")
    classifier = CatDogClassifier(weights=path, quiet=True)
    if name == "signs":
        with pytest.raises(UsageError, match="no convolutions"):
            classifier.explain(photo)
        return
    row, figures = classifier.explain(photo)
    assert row == classifier.predict(photo)[0] and list(figures) == KINDS
    (versions,) = pictures(figures["augmented"])  # sixteen, in four rows
    side = program.ARCHITECTURES[name].crop or classifier.size
    assert versions.shape == (4 * side + 3, 4 * side + 3, 3)
    assert len(np.unique(versions[:side], axis=1)) > 1


def test_pictures_are_listed_and_replace_only_our_own_or_empty_files(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = save(scrambled("happy"), "happy", tmp_path / "net.h5")
    os.mkdir("other")
    for path in ("猫.png", "other/猫.png", "猫-2.png"):
        tint("cat", np.random.default_rng(0)).save(path)
    Path("broken.jpg").write_bytes(b"no photo")
    line = ["--weights", weights, "--explain", "猫.png", "broken.jpg", "other/猫.png", "猫-2.png"]
    code, out, err = run(*line, "--json")
    rows = [json.loads(row) for row in out.splitlines()]
    assert code == 1 and "broken.jpg: not a photo" in err
    names = [[f"{name}_{kind}.png" for kind in KINDS] for name in ("猫", "猫-2", "猫-2-2")]
    assert [row["files"] for row in rows] == names
    mine = shutil.copy("猫.png", "猫_activations.png")
    before = [Path(path).read_bytes() for path in names[1]]
    err = refusal(run(*line[:3], "猫.png", "other/猫.png", "--json"))
    assert "猫_activations.png is there already, not written by this program" in err
    assert Path(mine).read_bytes() == Path("猫.png").read_bytes()
    Path(mine).write_bytes(b"")
    os.truncate(names[1][0], len(before[0]) - 1)
    assert run(*line[:3], "猫.png", "other/猫.png")[0] == 0
    assert [Path(path).read_bytes() for path in names[1]] == before  # ours and empty ones are


# --model imagenet: a base with its own thousand classes. ------------------------------------------

INDEX = "keras.src.applications.imagenet_utils.CLASS_INDEX"  # the names of these classes


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """A small base with its head, in files: random weights, and names, two of them the same."""
    monkeypatch.chdir(tmp_path)
    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model.set_weights([a + rng.uniform(0, 0.05, a.shape) for a in model.get_weights()])
    model.save_weights("whole.weights.h5")
    index = {str(number): [f"n{number}", f"kind_{number}"] for number in range(1000)}
    index["3"][1] = index["7"][1] = "crane"
    monkeypatch.setattr(INDEX, index)  # as if Keras had downloaded it
    tint("cat", np.random.default_rng(0)).save("a.png")
    return model


BASE = ("--model", "imagenet", "--base", SMALL, "--base-weights", "whole.weights.h5")


def test_a_base_answers_by_its_own_thousand_classes(whole, run):
    """An independent truth: the net of keras.applications after its own preprocess_input."""
    code, out, _ = run(*BASE, "-f", "a.png", "--json")
    found = json.loads(out)["probabilities"]
    pixels = program.read_photo("a.png", 224)[None].astype(np.float32)
    pixels = keras.applications.mobilenet.preprocess_input(pixels)
    assert code == 0
    assert list(found.values()) == pytest.approx(whole.predict_on_batch(pixels)[0], abs=1e-5)
    names = list(found)
    assert (len(names), names[3], names[7], names[999]) == (1000, "crane 3", "crane 7", "kind 999")
    code, out, _ = run(*BASE, "-f", "a.png")
    assert (code, out.count("(then ")) == (0, 1)


@pytest.mark.slow
def test_a_base_explains_its_answer(whole, run):
    code, out, _ = run(*BASE, "--explain", "a.png", "--json")
    files = json.loads(out)["files"]
    assert (code, files) == (0, [f"a_{kind}.png" for kind in KINDS])
    assert all(map(os.path.exists, files))


def test_names_that_cannot_be_had_are_one_line(whole, run, monkeypatch):
    failure = Exception("URL fetch failure on https://...: None\nand a long explanation")
    decode = mock.Mock(side_effect=failure)
    monkeypatch.setattr(keras.applications.imagenet_utils, "decode_predictions", decode)
    err = refusal(run(*BASE, "-f", "a.png"))
    assert "there are no names of ImageNet's classes: URL fetch failure" in err


def test_a_base_with_its_own_head_is_not_trained(whole, run, dataset, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", None)  # whoever calls it fails
    assert refusal(run(*BASE, "--dataset", dataset, "--weights", "net.h5"), 2)


def test_imagenet_knows_the_breed(real, run, monkeypatch):
    monkeypatch.setattr(INDEX, json.loads((real / "imagenet_class_index.json").read_text()))
    line = ["--model", "imagenet", "--base", "mobilenet-0.75"]
    line += ["--base-weights", real / "mobilenet_7_5_224_tf.weights.h5", "--json"]
    code, out, _ = run(*line, "-f", real / "originals" / "dog.4002.jpg")
    assert (code, json.loads(out)["label"]) == (0, "Yorkshire terrier")
