"""Looking inside: heatmaps, activations and filters of nets whose answers are known by hand."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import CatDogClassifier as program
from CatDogClassifier import RUNGS, CatDogClassifier, Settings, UsageError, build_model
from conftest import tint
from test_ladder import SMALL, net

PHOTO = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)


def by_hand(classes=2, bias=0.0):
    """A net that can be computed by hand: two 1x1 convolutions, red and blue, averages, one dense layer."""
    import keras
    from keras import layers

    photos = keras.Input((4, 4, 3))
    maps = layers.Conv2D(2, 1, name="maps")(photos)
    averages = layers.GlobalAveragePooling2D()(layers.MaxPooling2D(1)(maps))
    model = keras.Model(photos, program.answering(classes, "answer")(averages))
    kernel = np.zeros((1, 1, 3, 2), np.float32)
    kernel[0, 0, 0, 0] = kernel[0, 0, 2, 1] = 1
    answers = np.array([[2.0], [-3.0]], np.float32) if classes == 2 else np.float32([[2, 0, -1], [-3, 1, 0]])
    model.set_weights([kernel, np.zeros(2, np.float32), answers, np.full(answers.shape[1], bias, np.float32)])
    return model


@pytest.mark.parametrize(("classes", "place", "red", "blue"), [(2, 1, 2, -3), (2, 0, -2, 3), (3, 0, 2, -3), (3, 1, 0, 1)])
@pytest.mark.parametrize("bias", [0, 1000])  # a probability of exactly 1 or 0 has no slope, the logit has
def test_grad_cam_is_what_one_computes_by_hand(classes, place, red, blue, bias):
    expected = np.maximum(red * (PHOTO[..., 0] / 255) + blue * (PHOTO[..., 2] / 255), 0)
    found = program.grad_cam(by_hand(classes, bias), PHOTO, place)
    assert found == pytest.approx(expected / expected.max(), abs=1e-5)


def test_a_photo_in_which_nothing_speaks_for_the_class_has_an_empty_heatmap():
    assert not program.grad_cam(by_hand(3), PHOTO, 2)[PHOTO[..., 0] > 0].any()  # red speaks against it, blue does not count


def test_activations_are_those_of_the_layers():
    (name, maps), (_, pooled) = program.activations_of(by_hand(), PHOTO)
    assert name == "maps"
    assert maps == pytest.approx(PHOTO[..., [0, 2]] / 255, abs=1e-6)
    assert np.array_equal(maps, pooled)


def test_activations_are_shown_as_in_the_tutorial():
    maps = np.array([[[0.0, 5.0], [1.0, 5.0]], [[2.0, 5.0], [9.0, 5.0]]], np.float32)
    spread = np.std([0, 1, 2, 9])
    expected = [128 + 64 * (value - 3) / spread for value in (0, 1, 2, 9)]
    assert program.visible(maps)[..., 0].ravel() == pytest.approx(np.clip(expected, 0, 255), abs=1)
    assert (program.visible(maps)[..., 1] == 128).all()  # a map without any difference


def test_a_grid_has_its_pictures_in_rows():
    pictures = np.arange(5, dtype=np.uint8)[None, None].repeat(2, axis=0).repeat(3, axis=1)  # five of 2 x 3 pixels
    grid = program.in_grid(pictures, columns=2, gap=1)
    assert grid.shape == (2 * 3 + 2, 3 + 1 + 3)
    assert [grid[0, 0], grid[0, 4], grid[3, 0], grid[3, 4], grid[6, 0], grid[6, 4], grid[2, 0], grid[0, 3]] == [
        0, 1, 2, 3, 4, 255, 255, 255]


@pytest.mark.parametrize("bias", [0, -10])  # a rectifier that is shut at the start has no slope: it is left out
def test_filters_show_what_excites_them(bias):
    import keras

    model = by_hand()
    model.get_layer("maps").activation = keras.activations.relu
    model.get_layer("maps").bias.assign([bias, bias])
    found = program.filters_of(model, model.get_layer("maps"), program.Console(quiet=True)).astype(float)
    assert found.shape == (4, 4, 2, 3)
    for number, colour in ((0, 0), (1, 2)):
        means = found[:, :, number].mean(axis=(0, 1))
        assert means[colour] > 1.1 * np.delete(means, colour).max()
    assert model.get_layer("maps").activation is keras.activations.relu  # the net itself is left as it is


def test_a_heatmap_covers_the_photo_as_it_lies_upright(tmp_path):
    photo = np.zeros((40, 80, 3), np.uint8)
    image = Image.fromarray(photo)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "lying.jpg", exif=exif)
    assert program.view(tmp_path / "lying.jpg", 100).shape == (100, 50, 3)
    heat = np.zeros((2, 2), np.float32)
    heat[0, 1] = 1
    covered = program.overlaid(np.full((100, 50, 3), 100, np.uint8), heat).astype(int)
    assert covered[10, 40, 0] - covered[10, 40, 2] > 20  # red where it is hot, blue where it is not
    cold = program.overlaid(np.full((3, 3, 3), 100, np.uint8), np.zeros((2, 2)))
    assert cold[1, 1].tolist() == [79, 67, 84]  # 0.6 of the photo, 0.4 of the lowest colour of "turbo": 48, 18, 59


def test_a_narrow_photo_does_not_become_a_picture_without_end_and_a_long_name_leaves_the_answer_in_sight():
    narrow = program.page([("x", np.zeros((490, 14, 3), np.uint8))])
    assert narrow.size == (1000, 30 + 2000)
    assert program.page([("x", np.zeros((700, 200), np.uint8))], 200).size == (200, 30 + 700)  # as large as it is
    assert program.named_briefly("some/where/" + "a" * 30 + "b" * 30 + "c.jpg") == "a" * 20 + "..." + "b" * 15 + "c.jpg"
    assert program.named_briefly("some/where/IMG_2041.jpg") == "IMG_2041.jpg"


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_explains_itself_or_says_that_it_has_nothing_to_show(rung, tmp_path):
    facts = {"rung": rung, "base": SMALL, "classes": ["cat", "dog"], "versions": {"keras": "3"}}
    (tmp_path / "net.h5").write_bytes(program.pack_weights(net(rung), facts))
    tint("cat", np.random.default_rng(0)).save(tmp_path / "a.png")
    classifier = CatDogClassifier(weights=str(tmp_path / "net.h5"), quiet=True)
    if rung == "signs":
        with pytest.raises(UsageError, match="no convolutions"):
            classifier.explain(tmp_path / "a.png")
        return
    row, pictures = classifier.explain(tmp_path / "a.png")
    assert row == classifier.predict(tmp_path / "a.png")[0]
    assert list(pictures) == ["heatmap", "activations", "augmented"]
    assert {picture.width for picture in pictures.values()} == {1000, 620}


def test_pictures_are_listed_and_nothing_of_others_is_replaced(run, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("other")
    for path in ("猫.png", "other/猫.png"):
        tint("cat", np.random.default_rng(0)).save(path)
    Path("broken.jpg").write_bytes(b"no photo")
    line = ["--weights", weights, "--explain", "猫.png", "broken.jpg", "other/猫.png"]
    code, out, err = run(*line, "--json")
    rows = [json.loads(row) for row in out.splitlines()]
    assert code == 1
    assert "broken.jpg: not a photo" in err
    assert [row["files"] for row in rows] == [
        [f"{name}_{kind}.png" for kind in ("heatmap", "activations", "augmented")] for name in ("猫", "猫-2")]
    assert rows[0]["label"] == "cat"
    before = {path: Path(path).read_bytes() for path in rows[0]["files"]}
    assert run(*line)[0] == 1  # ours are replaced, by the same
    assert {path: Path(path).read_bytes() for path in before} == before
    os.unlink("猫_heatmap.png")
    shutil.copy("猫.png", "猫_activations.png")
    mine = Path("猫_activations.png").read_bytes()
    code, out, err = run(*line, "--json")
    assert (code, Path("猫_activations.png").read_bytes()) == (1, mine)
    assert "猫_activations.png is there already, and not ours to replace" in err
    assert not Path("猫_heatmap.png").exists()  # all of them or none
    assert len(out.splitlines()) == 1  # and the others go on


# ImageNet. -------------------------------------------------------------------------------------------------------------


def test_imagenet_knows_the_breed(real, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    weights = real / "mobilenet_7_5_224_tf.weights.h5"
    code, out, err = run("--imagenet", "broken.jpg", real / "originals" / "dog.4002.jpg", "--base", "mobilenet-0.75",
                         "--base-weights", weights, "--json")
    row = json.loads(out)
    assert code == 1
    assert "broken.jpg: not a photo" in err
    assert row["classes"][0]["name"] == "Yorkshire terrier"
    shares = [found["probability"] for found in row["classes"]]
    assert len(shares) == 3
    assert shares == sorted(shares, reverse=True)
    assert row["files"] == ["dog.4002_imagenet.png"]
    assert Image.open("dog.4002_imagenet.png").width == 1000


@pytest.mark.parametrize("base", ["mobilenet-0.25", "mobilenet_v2-0.35", "vgg16"])
def test_a_whole_net_of_keras_gives_logits_and_a_heatmap(base):
    import keras

    keras.utils.set_random_seed(0)
    model = program.imagenet_net(base, "none")
    photo = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert program.outputs(model, photo[None]).shape == (1, 1000)
    heat = program.grad_cam(model, photo, 7)
    assert heat.shape == ((14, 14) if base == "vgg16" else (7, 7))
    assert heat.max() in (0, pytest.approx(1))


def test_names_that_cannot_be_had_are_one_line(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tint("cat", np.random.default_rng(0)).save("a.png")
    monkeypatch.setattr(program, "imagenet_net", lambda base, source: None)
    code, out, err = run("--imagenet", "a.png", "--base-weights", "net.weights.h5")
    assert (code, out) == (1, "")
    assert err == ("CatDogClassifier: the names of the classes cannot be had from imagenet_class_index.json: "
                   "No such file or directory\n")


def test_every_convolution_has_its_filters_drawn(run, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn = []
    monkeypatch.setattr(program, "filters_of", lambda model, layer, console: (
        drawn.append(layer.name), np.zeros((4, 4, layer.filters, 3), np.uint8))[1])
    code, out, err = run("--weights", weights, "--filters")
    assert (code, drawn) == (0, [f"conv2d_{number}" for number in range(5)])
    assert "608 filters in 5 layers" in err
    assert out.splitlines() == [f"net_filters_{name}.png" for name in drawn] == sorted(os.listdir())


def test_a_net_is_built_so_that_its_layers_can_be_looked_into():
    for rung in ("default", "happy", "mnist"):
        model = build_model(rung, Settings())
        assert all(len(layer._inbound_nodes) == 1 for layer in model.layers)
