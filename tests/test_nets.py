"""The nets: the tutorials', number by number; bases, optimizer, rates, device, any classes."""

import functools
import itertools
import json
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from test_classifier import equal, pixels
from test_faults import Killed, at, ctrl_c

import CatDogClassifier as program
from CatDogClassifier import ARCHITECTURES, BASES, CatDogClassifier, build_model, keras, layers
from conftest import REPO, link_real, make_dataset, quick, refusal, slow

SMALL = "mobilenet-0.25"  # the base that tests are quick with


def conv(size, filters, parameters):
    return "Conv2D", (size, size, filters), parameters


def pool(size, filters):
    return "MaxPooling2D", (size, size, filters), 0


def normed(side, channels, parameters, rectified=True):
    """A convolution without bias and its normalization, as lines of a summary."""
    shape = side, side, channels
    lines = [("Conv2D", shape, parameters), ("BatchNormalization", shape, 4 * channels)]
    return lines + rectified * [("ReLU", shape, 0)]


def block(side, channels):
    """A residual block, its change weighed by two dense layers."""
    few, shape, weights = channels // 8, (side, side, channels), 9 * channels**2
    gates = [("GlobalAveragePooling2D", (1, 1, channels), 0)]
    gates += [("Dense", (1, 1, few), channels * few + few)]
    gates += [("Dense", (1, 1, channels), channels * few + channels), ("Multiply", shape, 0)]
    change = [*normed(side, channels, weights), *normed(side, channels, weights, False), *gates]
    return [*change, ("Add", shape, 0), ("ReLU", shape, 0)]


# Layer, output shape without the batch, parameters: the summaries that the tutorials print.
FOUR = [conv(148, 32, 896), pool(74, 32), conv(72, 64, 18_496), pool(36, 64)]
FOUR += [conv(34, 128, 73_856), pool(17, 128), conv(15, 128, 147_584), pool(7, 128)]
FIVE = [conv(5, 256, 295_168), pool(2, 256), ("Flatten", (1024,), 0), ("Dropout", (1024,), 0)]
HEAD = [("Dense", (512,), 3_211_776), ("Dense", (1,), 513)]
VGG16 = [conv(150, 64, 1_792), conv(150, 64, 36_928), pool(75, 64)]
VGG16 += [conv(75, 128, 73_856), conv(75, 128, 147_584), pool(37, 128)]
VGG16 += [conv(37, 256, 295_168), *[conv(37, 256, 590_080)] * 2, pool(18, 256)]
VGG16 += [conv(18, 512, 1_180_160), *[conv(18, 512, 2_359_808)] * 2, pool(9, 512)]
VGG16 += [*[conv(9, 512, 2_359_808)] * 3, pool(4, 512), ("Flatten", (8192,), 0)]
VGG16 += [("Dense", (256,), 2_097_408)]
TRANSFER, BASE, LAST_BLOCK = [*VGG16, ("Dense", (1,), 257)], 14_714_688, 7_079_424
DROPPED = [*VGG16, ("Dropout", (256,), 0), ("Dense", (1,), 257)]
WITNESSES = [*VGG16, ("Dense", (123,), 1_007_739), ("Dropout", (256,), 0)]
WITNESSES += [("Dense", (877,), 7_185_261), ("Concatenate", (257,), 0)]
WITNESSES += [("Concatenate", (258,), 0), ("Dense", (1,), 259)]
HAPPY = [("ZeroPadding2D", (70, 70, 3), 0), conv(64, 32, 4_736)]
HAPPY += [("BatchNormalization", (64, 64, 32), 128), ("Activation", (64, 64, 32), 0), pool(32, 32)]
DIGITS = [conv(26, 32, 320), pool(13, 32), conv(11, 64, 18_496), pool(5, 64), conv(3, 64, 36_928)]
DIGITS += [("Flatten", (576,), 0)]
SIGNS = [("Flatten", (12_288,), 0), ("Dense", (25,), 307_225), ("Dense", (12,), 312)]
SIGNS += [("Dense", (6,), 78)]
OURS = [*normed(None, 32, 864), pool(None, 32), *normed(None, 64, 18_432), *block(None, 64)]
OURS += [pool(None, 64), *normed(None, 128, 73_728), *block(None, 128), *block(None, 128)]
OURS += [pool(None, 128), *normed(None, 224, 258_048), *block(None, 224), *block(None, 224)]
OURS += [("GlobalAveragePooling2D", (224,), 0), ("Dense", (1,), 225)]
NETS = {  # architecture: its layers, all parameters, those that do not train
    "default": ([*FOUR, *FIVE, ("Dense", (512,), 524_800), ("Dense", (1,), 513)], 1_061_313, 0),
    "baseline": ([*FOUR, ("Flatten", (6272,), 0), *HEAD], 3_453_121, 0),
    "dropout": ([*FOUR, ("Flatten", (6272,), 0), ("Dropout", (6272,), 0), *HEAD], 3_453_121, 0),
    "features": (DROPPED, 16_812_353, BASE),
    "frozen": (TRANSFER, 16_812_353, BASE),
    "finetune_plain": (TRANSFER, 16_812_353, BASE - LAST_BLOCK),
    "finetune": (DROPPED, 16_812_353, BASE - LAST_BLOCK),
    "witness": (WITNESSES, 25_005_355, BASE - LAST_BLOCK),
    "happy": ([*HAPPY, ("Flatten", (32_768,), 0), ("Dense", (1,), 32_769)], 37_633, 64),
    "mnist": ([*DIGITS, ("Dense", (64,), 36_928), ("Dense", (10,), 650)], 93_322, 0),
    "signs": (SIGNS, 307_615, 0),
    "residual": (OURS, 2_864_289, 2 * 1984),
}


@pytest.mark.parametrize("name", sorted({*ARCHITECTURES} - {"imagenet"}))
def test_an_architecture_is_the_net_of_its_tutorial(name):
    model = build_model(name, "vgg16", len(ARCHITECTURES[name].classes))
    others = layers.InputLayer, layers.Rescaling, layers.Reshape, layers.AveragePooling1D
    lines = [
        (type(each).__name__, each.output.shape[1:], each.count_params())
        for each in model.layers
        if not isinstance(each, others)
        and each.output.shape[1:] != (150, 150, 3)  # of VGG16's own preparation of the pixels
    ]
    still = sum(int(np.prod(weight.shape)) for weight in model.non_trainable_weights)
    assert (lines, model.count_params(), still) == NETS[name]
    assert all(each.rate == 0.5 for each in model.layers if isinstance(each, layers.Dropout))


TUTORIALS = {  # epochs, photos in a batch, steps, optimizer, rate, whether photos are augmented
    "default": (30, 32, 0, "rmsprop", 1e-3, True),
    "baseline": (30, 20, 0, "rmsprop", 1e-4, False),
    "dropout": (100, 32, 100, "rmsprop", 1e-4, True),
    "features": (30, 20, 0, "rmsprop", 2e-5, False),
    "frozen": (30, 32, 100, "rmsprop", 2e-5, True),
    "finetune": (100, 32, 100, "rmsprop", 1e-5, True),
    "witness": (100, 32, 100, "rmsprop", 1e-5, True),
    "finetune_plain": (100, 20, 0, "rmsprop", 1e-5, False),
    "happy": (40, 50, 0, "adam", 1e-3, False),
    "mnist": (5, 64, 0, "rmsprop", 1e-3, False),
}


@pytest.mark.parametrize("name", TUTORIALS)
def test_an_architecture_trains_as_its_tutorial_does(name):
    found = CatDogClassifier(model=name, recipe="tutorial").settings
    chosen = found.epochs, found.batch_size, found.steps, found.optimizer, found.learning_rate
    assert (*chosen, found.augment, found.patience) == (*TUTORIALS[name], 10)
    assert CatDogClassifier(model=name, epochs=7, batch_size=3).settings.epochs == 7


HEADS = {"happy": (1, "sigmoid", "binary_crossentropy")}
HEADS["mnist"] = 10, "softmax", "categorical_crossentropy"


@pytest.mark.parametrize("name", HEADS)
def test_two_classes_have_one_answer_and_more_have_all_learned_by_cross_entropy(name):
    model = CatDogClassifier(model=name).createModel()
    activation = model.layers[-1].activation.__name__
    assert (*model.output_shape[1:], activation, model.loss.name) == HEADS[name]


# A net in a file, whatever of it trains. ----------------------------------------------------------


def scrambled(name, classes=2):
    """A net whose weights all differ, those of batch normalization too; each time the same."""
    keras.utils.set_random_seed(0)
    model, rng = build_model(name, SMALL, classes), np.random.default_rng(0)
    model.set_weights([array + rng.uniform(0, 0.01, array.shape) for array in model.get_weights()])
    return model


def save(model, name, path, classes=("cat", "dog")):
    """A weights file of this program."""
    info = program.new_info(program.Settings(model=name, base=SMALL), classes)
    path.write_bytes(program.save_h5(program.Net(model, info)))
    return str(path)


def answers(model, photos):
    """The probabilities of all classes, by Keras alone."""
    found = model.predict_on_batch(photos.astype(np.float32) / 255)
    return found if found.shape[1] > 1 else np.concatenate([1 - found, found], axis=1)


SAVED = ["default", "features", "happy", "mnist", *slow("finetune_plain", "residual")]


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_net_loads_whatever_trained_then_and_trains_now(name, tmp_path):
    model, other = scrambled(name, 3), build_model(name, SMALL, 3)
    size = program.image_size(name, SMALL)
    photos = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    photos[..., 1:] = photos[..., :1]  # grey, so that it is plain what a net of grey ones sees
    readers = program.load_h5, lambda path, net: net.load_weights(path)  # Keras minds what trains
    for trains, load in itertools.product((True, False), readers):
        model.trainable, other.trainable = trains, not trains
        path = save(model, name, tmp_path / "net.h5", "abc")
        other.set_weights([np.zeros_like(array) for array in model.get_weights()])
        load(path, other)
        assert equal(model.get_weights(), other.get_weights())
    classifier = CatDogClassifier(weights=path)
    classifier.load_weights()
    assert (classifier.settings.model, classifier.classes) == (name, tuple("abc"))
    assert classifier.size == size
    assert classifier.predictor.forward(photos) == pytest.approx(answers(model, photos), abs=1e-5)


def test_weights_of_another_net_than_asked_for_are_refused(run, colours, tmp_path):
    err = refusal(run("--model", "baseline", "--weights", colours, "-f", "x.jpg"))
    assert f"{colours} holds a happy net, base None. Leave out --model" in err
    frozen = save(scrambled("frozen"), "frozen", tmp_path / "net.h5")  # learned by another recipe
    err = refusal(run("--model", "finetune", "--weights", frozen, "-f", "x.jpg"))
    assert "holds a frozen net" in err
    wrong = save(scrambled("mnist"), "signs", tmp_path / "net.h5")
    with pytest.raises(program.CatDogError, match="weights of another net"):
        CatDogClassifier(weights=wrong).load_weights()


def test_files_of_others_load_into_the_architecture_that_they_are_of(run, dataset, tmp_path):
    """The tutorial's baseline, saved by Keras without a word about classes."""
    model, photo = scrambled("baseline"), dataset / "test/cat/cat.0.png"
    model.save(tmp_path / "theirs.h5", include_optimizer=False)
    line = "--weights", tmp_path / "theirs.h5", "-f", photo, "--json"
    found = json.loads(run("--model", "baseline", *line)[1])["probabilities"].values()
    expected = answers(model, program.read_photo(photo, 150)[None])[0]
    assert list(found) == pytest.approx(expected.tolist(), abs=1e-5)
    assert run(*line)[0] == 1  # of the default architecture they are not


# Bases: nets that others trained. -----------------------------------------------------------------


def arrays(model):
    return {f"{each.name}/{w.name}": np.array(w) for each in model.layers for w in each.weights}


def moved(before, after, **near):
    """The names of the layers whose arrays differ, by more than np.allclose allows when `near`."""
    same = functools.partial(np.allclose, **near) if near else np.array_equal
    return {name.split("/")[0] for name in before if not same(before[name], after[name])}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Weights of the small base in a file, as Keras saves them."""
    path = tmp_path_factory.mktemp("base") / "base.weights.h5"
    program.base_of(scrambled("frozen")).save_weights(path)
    return str(path)


@pytest.mark.parametrize("name", ["vgg16", SMALL])
def test_a_base_sees_the_pixels_that_its_authors_trained_it_on(name):
    """An independent truth: the net of keras.applications after its own preprocess_input."""
    kind = BASES[name]
    module = getattr(keras.applications, kind.module)
    options = {"include_top": False, "weights": None, "pooling": kind.pooling, **kind.options}
    theirs = getattr(module, kind.name)(input_shape=(kind.size, kind.size, 3), **options)
    ours = program.base_of(build_model("finetune", name, 2))
    ours.set_weights(theirs.get_weights())
    photos = np.random.default_rng(0).uniform(0, 255, (1, kind.size, kind.size, 3))
    expected = theirs.predict_on_batch(module.preprocess_input(photos.copy()))
    assert ours.predict_on_batch(photos / 255) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    trained = [each for each in ours.layers if each.trainable_weights]  # the last block
    assert 1 <= len(trained) < len([each for each in theirs.layers if each.weights]) / 2
    assert not any(isinstance(each, layers.BatchNormalization) for each in trained)


def test_efficientnet_lite0_is_that_of_its_authors():
    base = program.base_of(build_model("finetune", "efficientnet-lite0", 3))
    assert (base.count_params(), base.output_shape) == (3_413_024, (None, 1280))
    kernels = [each for each in base.layers if isinstance(each, layers.DepthwiseConv2D)]
    assert [each.kernel_size[0] for each in kernels] == [3] * 3 + [5] * 2 + [3] * 3 + [5] * 7 + [3]
    assert not any(layer.get_config().get("use_bias") for layer in kernels)
    photos = np.random.default_rng(0).random((1, 224, 224, 3)).astype(np.float32)
    seen = np.asarray(base.get_layer("normalized")(photos * 255))
    assert np.abs(seen - (photos * 255 - 127) / 128).max() < 1e-5
    trained = {each.name for each in base.layers if each.trainable_weights}
    assert {name.partition("_")[0] for name in trained} == {"block6", "block7", "last"}


def test_a_base_that_cannot_be_downloaded_says_how_to_get_it(run, dataset):
    line = "--dataset", dataset, "--model", "frozen", "--base", "efficientnet-lite0", "-q"
    err = refusal(run(*line, "--weights", dataset / "net.h5"))
    assert "nobody offers it for download. Name a file with --base-weights" in err


def test_frozen_means_that_not_one_weight_moves():
    """Fine-tuned are the convolutions of the last block, not its batch normalization."""
    model = CatDogClassifier(model="finetune", base=SMALL, base_weights="none").createModel()
    model.set_weights(scrambled("finetune").get_weights())
    before = arrays(model)
    photos = np.random.default_rng(2).random((4, 224, 224, 3)).astype(np.float32)
    model.train_on_batch(photos, np.array([[0.0], [1.0], [0.0], [1.0]]))
    learned = {"conv_dw_12", "conv_pw_12", "conv_dw_13", "conv_pw_13", "dense_0", "dense_1"}
    assert moved(before, arrays(model)) == learned


def test_base_weights_come_from_keras_whose_words_are_no_results(monkeypatch, capsys):
    given, real = [], keras.applications.MobileNet

    def donor(**options):
        if "weights" in options:  # the one that they are put into
            return real(**options)
        print("Downloading data")
        given.append(options)
        base = real(weights=None, **options)
        base.set_weights(program.base_of(scrambled("frozen")).get_weights())
        return base

    monkeypatch.setattr(keras.applications.mobilenet, "MobileNet", donor)
    model = CatDogClassifier(model="frozen", base=SMALL).createModel()
    options = {"include_top": False, "input_shape": (224, 224, 3), "pooling": "avg"}
    assert given == [{**options, "alpha": 0.25}]
    assert moved(arrays(program.base_of(scrambled("frozen"))), arrays(model)) == set()
    assert capsys.readouterr().out == ""


SOURCES = ["imagenet", "missing.h5", "other.weights.h5", "part.weights.h5", "text.h5"]
WORDS = {"imagenet": "URL fetch failure", "missing.h5": "No such file or directory"}


@pytest.mark.parametrize("source", SOURCES)
def test_base_weights_that_cannot_be_had_are_one_line(source, run, dataset, tmp_path, monkeypatch):
    def offline(**options):
        if "weights" in options:
            return real(**options)
        raise Exception("URL fetch failure on https://...: None\nand a long explanation")

    real = keras.applications.MobileNet
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras.applications.mobilenet, "MobileNet", offline)
    Path("text.h5").write_text("no weights")
    if source.startswith("other"):
        program.base_of(build_model("frozen", "mobilenet-0.75", 2)).save_weights(source)
    elif source.startswith("part"):
        base = program.base_of(build_model("frozen", SMALL, 2))
        part = keras.Model(base.input, base.get_layer("conv_dw_13_relu").output)
        part.save_weights(source)  # a net that was never trained has zeros and ones too
    line = "--dataset", dataset, "--model", "frozen", "--base", SMALL, "-q"
    err = refusal(run(*line, "--base-weights", source))
    assert f"no weights of {SMALL} in {source}: {WORDS.get(source, '')}" in err
    assert "--base-weights none" in err


@pytest.mark.slow
def test_another_base_is_no_way_to_resume(pretrained, dataset, tmp_path, run, monkeypatch, capsys):
    """A base without weights is random: what a head learned from one is no use to another."""
    at(monkeypatch, "on_train_batch_end", 2, ctrl_c)
    line = ["--dataset", dataset, "--weights", tmp_path / "net.h5", "--model", "features"]
    line += ["--base", SMALL, "--epochs", 2, "--base-weights"]
    assert run(*line, "none")[0] == 130 and (tmp_path / "net.checkpoint").exists()
    monkeypatch.setattr(keras.Model, "fit", mock.Mock(side_effect=Killed))
    with pytest.raises(Killed):
        run(*line, pretrained)
    err = capsys.readouterr().err
    assert "is no checkpoint of this training" in err and "Resuming" not in err


def test_features_are_what_a_base_sees(pretrained, dataset):
    photos = pixels(program.list_photos(dataset / "validation"), 224)
    settings = {"model": "features", "base": SMALL, "base_weights": pretrained, "quiet": True}
    _, validation = CatDogClassifier(**settings).load_data(dataset)
    expected = program.base_of(scrambled("frozen")).predict_on_batch(photos)
    assert np.concatenate([batch for batch, _ in validation]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_a_head_that_learned_from_features_answers_for_photos(pretrained, dataset, tmp_path):
    settings = {"model": "features", "base": SMALL, "base_weights": pretrained, "batch_size": 20}
    classifier = quick(tmp_path, **settings, learning_rate=0.001, epochs=3)
    history = classifier.train(dataset).history
    assert history["loss"][2] < history["loss"][0]
    # Scored as a whole, on photos, it is the net whose head was validated on features.
    loaded = CatDogClassifier(weights=classifier.settings.weights, quiet=True)
    loaded.load_weights()
    listed = program.list_split(dataset, "validation")
    photos, labels = program.load_photos(listed, 224, loaded.console)
    loss = loaded.model.evaluate(photos / np.float32(255), labels, verbose=0)[0]
    assert loss == pytest.approx(min(history["val_loss"]), rel=1e-3)
    assert moved(arrays(program.base_of(scrambled("frozen"))), arrays(loaded.model)) == set()


@pytest.mark.slow
def test_real_features_tell_real_photos_apart(real, tmp_path, run):
    """200 photos to learn from, seconds of training: nearly all of 200 others."""
    data = link_real(real, tmp_path / "data", {"train": 100, "validation": 50, "test": 100})
    base = real / "mobilenet_7_5_224_tf_no_top.weights.h5"
    line = "--model", "features", "--base", "mobilenet-0.75", "--base-weights", base, "--seed", 0
    line += "--learning-rate", 1e-4, "--dataset", data, "--weights", tmp_path / "net.h5"
    assert json.loads(run(*line, "--json")[1])["test"]["accuracy"] >= 0.93


def test_by_the_best_recipe_a_whole_base_learns_but_its_normalization(dataset, tmp_path):
    tuned = quick(tmp_path, model="finetune", base="box", steps=2, epochs=1, seed=3)
    before = arrays(tuned.createModel())
    tuned.train(dataset)
    learned = {each.name for each in tuned.model.layers if each.weights and "norm" not in each.name}
    assert moved(before, arrays(tuned.model)) == learned


def test_the_tutorials_fine_tuning_trains_the_head_before_the_last_block(dataset, tmp_path):
    given = {"base": SMALL, "learning_rate": 1e-12, "steps": 1, "epochs": 1, "seed": 1}
    tuned = quick(tmp_path, model="finetune_plain", base_weights="none", **given)
    tuned.createModel()
    before = arrays(tuned.model)
    tuned.train(dataset)
    changed = moved(before, arrays(tuned.model), atol=1e-6)  # at a rate of 0.001, not of 1e-12
    assert changed == {"dense_0", "dense_1"}


# Any number of classes, grey photos. --------------------------------------------------------------


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A dataset of three colours, and the weights of a net that tells them apart."""
    folder, counts = tmp_path_factory.mktemp("three"), {"train": 12, "validation": 6, "test": 6}
    make_dataset(folder / "data", counts, labels=("green", "red", "violet"))
    quick(folder, model="signs", epochs=12, learning_rate=0.005).train(folder / "data")
    return folder


def test_a_net_of_three_classes_learns_answers_and_shows_the_likeliest_others(three, run):
    line = "--weights", three / "net.h5", "-d", three / "data/test"
    code, out, _ = run(*line, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["label"] for row in rows] == [Path(row["path"]).parent.name for row in rows]
    assert all(list(row["probabilities"]) == ["green", "red", "violet"] for row in rows)
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5) for row in rows)
    _, out, err = run(*line, "--csv")
    assert out.splitlines()[0] == "path,label,confidence,verdict,green,red,violet,error"
    assert err == "18 files: 6 green, 6 red, 6 violet, 0 unreadable\n"
    _, out, _ = run("--weights", three / "net.h5", "-f", three / "data/test/red/red.0.png")
    label, rest = out.split(maxsplit=1)
    found = [rest.count(text) for text in ("(then ", "green", "violet")]
    assert (label, found) == ("red", [1, 1, 1])


def test_a_net_of_grey_photos_sees_them_as_pillow_does(tmp_path):
    data = make_dataset(tmp_path, {"train": 1, "validation": 1})
    _, batches = CatDogClassifier(model="mnist", quiet=True).load_data(data)
    photos = [program.read_photo(path, 28) for path in program.list_photos(data / "validation")]
    grey = [np.asarray(Image.fromarray(photo).convert("L"), np.float32) for photo in photos]
    expected = np.stack(grey)[..., None] / 255
    model = build_model("mnist", None, 10)
    net = keras.Model(model.inputs, model.get_layer("grey").output)
    found = np.concatenate([net(batch) for batch, _ in batches])
    assert found == pytest.approx(expected, abs=1.01 / 255)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("happy", 150), ("mnist", 800), ("signs", 150)])
def test_the_nets_for_other_pictures_learn_them(name, count, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPO / "tests" / "measure")
    from ladder import draw_set

    data = draw_set(tmp_path / "data", name, {"train": count, "validation": 40, "test": 100})
    net = CatDogClassifier(model=name, weights=str(tmp_path / "net.h5"), seed=0, quiet=True)
    net.train(data)
    assert net.info["summary"]["test"]["accuracy"] >= 0.95


# Recipes: epochs, rates, optimizers; the device. --------------------------------------------------


EPOCHS = [({}, 100), ({"steps": 250}, 100), ({"steps": 500}, 50), ({"steps": 1250}, 30)]
EPOCHS += [({"epochs": 7}, 7), ({"recipe": "tutorial"}, 30), ({"augment": False}, 30)]


@pytest.mark.parametrize(("settings", "epochs"), [*EPOCHS, ({"model": "happy"}, 40)])
def test_fewer_photos_are_seen_more_often(settings, epochs, dataset):
    classifier = CatDogClassifier(**settings, quiet=True)
    classifier.load_data(dataset)
    assert classifier.settings.epochs == epochs


def test_drawings_are_learned_sooner_and_the_epochs_follow_the_photos_of_each_training(dataset):
    classifier, epochs = CatDogClassifier(quiet=True), []
    for data in (dataset, REPO / "dataset", dataset):
        classifier.load_data(data)
        epochs.append(classifier.settings.epochs)
    assert epochs == [100, 30, 100]


@pytest.mark.parametrize("recipe", ["best", "tutorial"])
def test_the_rate_rises_for_a_tenth_then_falls_as_a_cosine(recipe, dataset, tmp_path, monkeypatch):
    def fit(self, *arguments, **more):
        for step in range(12):  # 24 photos in batches of 8, 4 epochs
            self.optimizer.iterations.assign(step)
            rates.append(float(self.optimizer.learning_rate))
        raise Killed

    rates = []
    monkeypatch.setattr(keras.Model, "fit", fit)
    with pytest.raises(Killed):
        quick(tmp_path, model="signs", recipe=recipe, learning_rate=0.02).train(dataset)
    done = np.arange(12) / 12
    falling = 0.02 * (1 + np.cos(np.pi * (done - 0.1) / 0.9)) / 2
    best = np.where(done < 0.1, 0.02 * done / 0.1, falling)
    assert rates == pytest.approx(best if recipe == "best" else [0.02] * 12, rel=1e-4)


@pytest.mark.parametrize("name", program.OPTIMIZERS)
def test_flags_choose_optimizer_and_learning_rate(name):
    model = CatDogClassifier(optimizer=name, learning_rate=0.02, model="signs").createModel()
    assert type(model.optimizer).__name__.lower() == name
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)


def newton_schulz(matrix):
    """What Muon makes of a matrix, by its singular values: five times Jordan's polynomial."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.linalg.norm(matrix)
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    return left * values @ right


def test_muon_is_what_jordan_wrote_for_kernels_and_adamw_for_all_else():
    rate, shapes = 0.01, {"kernel": (3, 3, 4, 8), "dense_kernel": (8, 4), "bias": (8,)}
    optimizer = CatDogClassifier(optimizer="muon", learning_rate=rate).createModel().optimizer
    rng = np.random.default_rng(0)
    expected = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    variables = [keras.Variable(array.astype("f"), name=n) for n, array in expected.items()]
    means, squares = ({name: np.zeros(shape) for name, shape in shapes.items()} for _ in range(2))
    for step in (1, 2, 3):
        gradients = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        gradients["kernel"][..., 0] *= 100  # one direction is far stronger than all others
        optimizer.apply([array.astype("f") for array in gradients.values()], variables)
        for name, slope in gradients.items():
            expected[name] *= 1 if name == "bias" else 1 - 0.5 * rate  # the weight decay
            if name == "kernel":
                means[name] = 0.95 * means[name] + slope
                change = newton_schulz((0.95 * means[name] + slope).reshape(36, 8))
                expected[name] -= rate * 0.2 * 36**0.5 * change.reshape(shapes[name])
                continue
            means[name] = 0.9 * means[name] + 0.1 * slope
            squares[name] = 0.999 * squares[name] + 0.001 * slope**2
            mean, square = means[name] / (1 - 0.9**step), squares[name] / (1 - 0.999**step)
            expected[name] -= rate * mean / (np.sqrt(square) + 1e-7)
    for variable, array in zip(variables, expected.values(), strict=True):
        np.testing.assert_allclose(variable.numpy(), array, atol=2e-5)


def test_the_first_gpu_is_used_with_memory_growth(monkeypatch):
    config = program.tf.config
    details = {"gpu:0": {"device_name": "NVIDIA H200"}, "gpu:1": {}}
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: ["gpu:0", "gpu:1"])
    monkeypatch.setattr(config.experimental, "get_device_details", details.get)
    assert program.start_tensorflow(program.Settings()) == "GPU (NVIDIA H200)"
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_without_one_the_processor_is_named():
    assert program.start_tensorflow(program.Settings()) == f"CPU ({os.cpu_count()} cores)"
