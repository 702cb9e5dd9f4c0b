"""Room 8 and what stands on it: every rung is the tutorials' net, saves, loads and answers; bases; any number of classes."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import CatDogClassifier as program
from CatDogClassifier import BASES, RUNGS, CatDogClassifier, Settings, UsageError, WeightsError, build_model
from conftest import forward, make_dataset
from measure_ladder import draw_set

SMALL = "mobilenet-0.25"  # the base that tests are quick with


def conv(size, filters, parameters):
    return ("Conv2D", (size, size, filters), parameters)


def pool(size, filters):
    return ("MaxPooling2D", (size, size, filters), 0)


# Layer, output shape without the batch, parameters: the summaries that the tutorials print.
FOUR = [conv(148, 32, 896), pool(74, 32), conv(72, 64, 18_496), pool(36, 64), conv(34, 128, 73_856), pool(17, 128),
        conv(15, 128, 147_584), pool(7, 128), ("Flatten", (6272,), 0)]
HEAD = [("Dense", (512,), 3_211_776), ("Dense", (1,), 513)]
VGG16 = [conv(150, 64, 1_792), conv(150, 64, 36_928), pool(75, 64), conv(75, 128, 73_856), conv(75, 128, 147_584),
         pool(37, 128), conv(37, 256, 295_168), conv(37, 256, 590_080), conv(37, 256, 590_080), pool(18, 256),
         conv(18, 512, 1_180_160), conv(18, 512, 2_359_808), conv(18, 512, 2_359_808), pool(9, 512),
         conv(9, 512, 2_359_808), conv(9, 512, 2_359_808), conv(9, 512, 2_359_808), pool(4, 512),
         ("Flatten", (8192,), 0), ("Dense", (256,), 2_097_408)]
SUMMARIES = {
    "baseline": [*FOUR, *HEAD],
    "dropout": [*FOUR, ("Dropout", (6272,), 0), *HEAD],
    "features": [*VGG16, ("Dropout", (256,), 0), ("Dense", (1,), 257)],
    "frozen": [*VGG16, ("Dense", (1,), 257)],
    "finetune_plain": [*VGG16, ("Dense", (1,), 257)],
    "finetune": [*VGG16, ("Dense", (1,), 257)],
    "happy": [("ZeroPadding2D", (70, 70, 3), 0), conv(64, 32, 4_736), ("BatchNormalization", (64, 64, 32), 128),
              ("Activation", (64, 64, 32), 0), pool(32, 32), ("Flatten", (32_768,), 0), ("Dense", (1,), 32_769)],
    "mnist": [conv(26, 32, 320), pool(13, 32), conv(11, 64, 18_496), pool(5, 64), conv(3, 64, 36_928),
              ("Flatten", (576,), 0), ("Dense", (64,), 36_928), ("Dense", (10,), 650)],
    "signs": [("Flatten", (12_288,), 0), ("Dense", (25,), 307_225), ("Dense", (12,), 312), ("Dense", (6,), 78)],
}


def normed(side, channels, parameters, rectified=True):
    """A 3x3 convolution without bias and its normalisation, as lines of a summary."""
    shape = (side, side, channels)
    return [("Conv2D", shape, parameters), ("BatchNormalization", shape, 4 * channels)] + rectified * [("ReLU", shape, 0)]


def block(side, channels):
    """A residual block, its change weighed by two dense layers."""
    parameters, shape, few = 9 * channels**2, (side, side, channels), channels // 8
    gates = [("GlobalAveragePooling2D", (1, 1, channels), 0), ("Dense", (1, 1, few), channels * few + few),
             ("Dense", (1, 1, channels), channels * few + channels), ("Multiply", shape, 0)]
    return [*normed(side, channels, parameters), *normed(side, channels, parameters, False), *gates, ("Add", shape, 0),
            ("ReLU", shape, 0)]


SUMMARIES["residual"] = [
    *normed(80, 32, 864), pool(40, 32), *normed(40, 64, 18_432), *block(40, 64), pool(20, 64), *normed(20, 128, 73_728),
    *block(20, 128), *block(20, 128), pool(10, 128), *normed(10, 224, 258_048), *block(10, 224),
    *block(10, 224), ("GlobalAveragePooling2D", (224,), 0), ("Dense", (1,), 225)]
COUNTS = {"residual": 2_864_289, "default": 1_061_313, "baseline": 3_453_121, "dropout": 3_453_121, "features": 16_812_353,
          "frozen": 16_812_353, "finetune_plain": 16_812_353, "finetune": 16_812_353, "happy": 37_633,
          "mnist": 93_322, "signs": 307_615}
NORMED = {"happy": 1, "residual": 14}  # layers of batch normalisation: two of the four tensors of each do not train
# How many weight tensors train: with VGG16 those of two dense layers, and of the three convolutions of block 5.
TRAINED = {"features": 4, "frozen": 4, "finetune_plain": 10, "finetune": 10}


def test_every_rung_has_its_summary_here():
    assert set(COUNTS) == set(RUNGS) == {"default", *SUMMARIES}


VGG16, BLOCK_5 = 14_714_688, 7_079_424


@pytest.mark.parametrize("rung", RUNGS)
def test_a_rung_is_the_net_of_its_tutorial(rung):
    model = build_model(rung, Settings())
    assert model.count_params() == COUNTS[rung]
    assert len(model.trainable_weights) == TRAINED.get(rung, len(model.weights) - 2 * NORMED.get(rung, 0))
    if rung in SUMMARIES:
        told = [(type(layer).__name__, layer.output.shape[1:], layer.count_params()) for layer in model.layers]
        assert [line for line in told if line[0] not in ("InputLayer", "Rescaling")] == SUMMARIES[rung]
    still = sum(int(np.prod(weight.shape)) for weight in model.non_trainable_weights)
    assert still == {"happy": 64, "residual": 2 * 1984, "features": VGG16, "frozen": VGG16, "finetune": VGG16 - BLOCK_5,
                     "finetune_plain": VGG16 - BLOCK_5}.get(rung, 0)


@pytest.mark.parametrize(
    ("rung", "epochs", "batch_size", "steps", "optimizer", "learning_rate", "augment"),
    [("default", 30, 32, 0, "rmsprop", 1e-3, True), ("baseline", 30, 20, 0, "rmsprop", 1e-4, False),
     ("dropout", 100, 32, 100, "rmsprop", 1e-4, True), ("features", 30, 20, 0, "rmsprop", 2e-5, False),
     ("frozen", 30, 32, 100, "rmsprop", 2e-5, True), ("finetune", 100, 32, 100, "rmsprop", 1e-5, True),
     ("finetune_plain", 100, 20, 0, "rmsprop", 1e-5, False), ("happy", 40, 50, 0, "adam", 1e-3, False),
     ("mnist", 5, 64, 0, "rmsprop", 1e-3, False)],
)
def test_a_rung_trains_as_its_tutorial_does(rung, epochs, batch_size, steps, optimizer, learning_rate, augment):
    settings = CatDogClassifier(model=rung, recipe="tutorial").settings
    found = (settings.epochs, settings.batch_size, settings.steps, settings.optimizer, settings.learning_rate, settings.augment)
    assert found == (epochs, batch_size, steps, optimizer, learning_rate, augment)
    assert CatDogClassifier(model=rung, epochs=7, batch_size=3).settings.epochs == 7


def net(rung, classes=2, policy="float32"):
    """A rung with weights that are all different, batch normalisation's too; the same ones each time."""
    import keras

    keras.utils.set_random_seed(0)
    model, rng = build_model(rung, Settings(base=SMALL), policy, classes), np.random.default_rng(0)
    model.set_weights([array + rng.uniform(0, 0.01, array.shape) for array in model.get_weights()])
    return model


def thaw(model, everything):
    for layer in model.layers:
        layer.trainable = everything


@pytest.mark.parametrize("rung", RUNGS)
def test_a_saved_net_loads_whatever_trained_then_and_trains_now(rung, tmp_path):
    model, other, path = net(rung, classes=3), build_model(rung, Settings(base=SMALL), classes=3), tmp_path / "net.h5"
    facts = {"rung": rung, "base": SMALL, "classes": ["a", "b", "c"], "versions": {"keras": "3"}}
    side = program.side_of(rung, SMALL)
    photos = np.random.default_rng(1).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    expected, untrained = forward(model, photos), other.get_weights()
    assert expected.sum(axis=1) == pytest.approx([1, 1])
    for everything in (True, False):
        thaw(model, everything)
        path.write_bytes(program.pack_weights(model, facts, np.arange(5)))
        for now in (True, False):
            other.set_weights(untrained)
            thaw(other, now)
            program.unpack_weights(path, other)
            assert all(map(np.array_equal, other.get_weights(), model.get_weights()))
        other.set_weights(untrained)
        thaw(other, not everything)
        other.load_weights(path)  # Keras' own reader, which looks at what trains
        assert all(map(np.array_equal, other.get_weights(), model.get_weights()))
    classifier = CatDogClassifier(weights=str(path))
    classifier.load_weights()
    assert (classifier.rung, classifier.classes, classifier.size) == (rung, ("a", "b", "c"), side)
    assert classifier.seen.tolist() == [0, 1, 2, 3, 4]
    assert forward(classifier.predictor, photos) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["vgg16", SMALL, "mobilenet_v2-0.35", "resnet50", "efficientnet_v2_b0"])
def test_a_base_sees_the_pixels_that_its_authors_trained_it_on(name):
    """An independent computation: the net of keras.applications, given what its own preprocess_input makes of 0..255."""
    import keras

    kind = BASES[name]
    module = getattr(keras.applications, kind.module)
    theirs = getattr(module, kind.name)(include_top=False, weights=None, input_shape=(64, 64, 3), pooling=kind.pooling, **kind.options)
    ours = program.base_of(program.on_base(64, 2, name))
    ours.set_weights(theirs.get_weights())
    photos = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    expected = theirs.predict_on_batch(module.preprocess_input(photos.copy()))
    assert ours.predict_on_batch(photos / 255) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert kind.block in [layer.name for layer in ours.layers]
    trained = [layer for layer in build_model("finetune", Settings(base=name)).layers if layer.trainable_weights]
    assert 3 <= len(trained) < len([layer for layer in theirs.layers if layer.weights])


def moved(before, after):
    """The names of the arrays that differ."""
    return {name for name, array in before.items() if not np.array_equal(array, after[name])}


def arrays(model):
    return {f"{layer.name}/{weight.name}": np.array(weight) for layer in model.layers for weight in layer.weights}


@pytest.mark.parametrize("rung", ["frozen", "finetune"])
def test_frozen_means_that_not_one_weight_moves(rung):
    model = net(rung)
    before = arrays(model)
    photos = np.random.default_rng(2).random((4, 224, 224, 3)).astype(np.float32)
    model.train_on_batch(photos, np.array([[0.0], [1.0], [0.0], [1.0]]))
    found, head = moved(before, arrays(model)), {f"{name}/{kind}" for name in ("dense_0", "dense_1") for kind in ("kernel", "bias")}
    assert head <= found
    assert {name.split("/")[0] for name in found - head} == (set() if rung == "frozen" else {
        "conv_dw_12", "conv_pw_12", "conv_dw_13", "conv_pw_13"})  # the last block, but for its batch normalisation


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("rung", ["default", "features", "happy", "mnist", "signs"])  # one of each builder
def test_two_classes_have_one_answer_and_more_have_all(rung, classes):
    model = build_model(rung, Settings(base=SMALL), classes=classes)
    kind = ((None, 1), "sigmoid", "binary_crossentropy") if classes == 2 else ((None, 5), "softmax", "categorical_crossentropy")
    assert (model.output_shape, model.layers[-1].activation.__name__, model.loss) == kind


def test_a_net_of_grey_photos_sees_them_as_pillow_does():
    photos = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    expected = np.stack([np.asarray(Image.fromarray(photo).convert("L")) for photo in photos])[..., None]
    assert np.abs(program.in_channels(photos, 1).astype(int) - expected).max() <= 1
    assert program.scaled(list(photos), 1) == pytest.approx(program.in_channels(photos, 1) / 255)
    assert program.in_channels(photos, 3) is photos


# Pretrained weights. ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Weights of the small base in a file, as Keras saves them."""
    path = tmp_path_factory.mktemp("base") / "base.weights.h5"
    program.base_of(net("frozen")).save_weights(path)
    return path


@pytest.mark.parametrize("rung", ["features", "frozen", "finetune"])
def test_base_weights_come_from_a_file(pretrained, rung):
    wanted = arrays(program.base_of(net("frozen")))
    classifier = CatDogClassifier(model=rung, base=SMALL, base_weights=str(pretrained))
    assert moved(wanted, arrays(classifier.createModel())) == set()


def test_base_weights_come_from_keras(monkeypatch, capsys):
    """What keras.applications gives for "imagenet" is what the base has; its words are no results."""
    import keras

    given = {}

    def donor(**arguments):
        print("Downloading data")
        given.update(arguments)
        return real(**{**arguments, "weights": None})

    real = keras.applications.MobileNet
    classifier = CatDogClassifier(model="frozen", base=SMALL)
    model = classifier._build("float32")
    monkeypatch.setattr(keras.applications.mobilenet, "MobileNet", donor)
    program.pretrain(model, SMALL, "imagenet")
    assert given == {"include_top": False, "input_shape": (224, 224, 3), "pooling": "avg", "alpha": 0.25}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("source", "words"),
    [("imagenet", "no weights of mobilenet-0.25 to be had from imagenet: URL fetch failure"),
     ("missing.h5", "cannot read the base weights missing.h5: No such file or directory"),
     ("other.weights.h5", "no weights of mobilenet-0.25 to be had from other.weights.h5"),
     ("text.h5", "cannot read the base weights text.h5: ")],
)
def test_base_weights_that_cannot_be_had_are_one_line_with_the_way_out(source, words, run, dataset, tmp_path, monkeypatch):
    import keras

    def offline(**arguments):
        if "weights" in arguments:
            return real(**arguments)
        raise Exception("URL fetch failure on https://...: None -- no network\nand a long explanation")

    real = keras.applications.MobileNet
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras.applications.mobilenet, "MobileNet", offline)
    Path("text.h5").write_text("no weights")
    program.base_of(build_model("frozen", Settings(base="mobilenet-0.5"))).save_weights("other.weights.h5")
    code, out, err = run("--dataset", dataset, "--model", "frozen", "--base", SMALL, "--base-weights", source, "-q")
    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1
    assert "--base-weights none" in err


def test_all_weights_of_a_base_must_be_in_its_file(tmp_path):
    """A net that was never trained has zeros and ones: a file of them is whole all the same."""
    import keras

    base, model = program.base_of(build_model("frozen", Settings(base=SMALL))), build_model("frozen", Settings(base=SMALL))
    base.save_weights(tmp_path / "whole.weights.h5")
    program.pretrain(model, SMALL, str(tmp_path / "whole.weights.h5"))
    assert moved(arrays(base), arrays(model)) == set()
    keras.Model(base.input, base.get_layer("conv_dw_13_relu").output).save_weights(tmp_path / "part.weights.h5")
    with pytest.raises(WeightsError, match="no weights of mobilenet-0.25 to be had"):
        program.pretrain(model, SMALL, str(tmp_path / "part.weights.h5"))


def test_an_unfinished_head_does_not_go_on_with_another_base(dataset, tmp_path, run, monkeypatch):
    """Without pretrained weights the base is random: what a head has learned from one is of no use to another."""
    line = ["--dataset", dataset, "--weights", tmp_path / "net.h5", "--model", "features", "--base", SMALL, "--base-weights",
            "none", "--epochs", 2]
    with monkeypatch.context() as patched:
        patched.setattr(program.Training, "over", lambda self: "interrupted" if self.progress.epochs else None)
        run(*line)
    assert (tmp_path / "net.unfinished").exists()
    assert "is of another kind (other base)" in run(*line)[2]


def test_what_a_base_sees_is_computed_once(pretrained, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = {"model": "features", "base": SMALL, "base_weights": str(pretrained), "weights": str(tmp_path / "net.h5"),
                "epochs": 2, "quiet": True, "dataset": str(dataset), "precision": "float32"}
    first = CatDogClassifier(**settings)
    train, validation = first.load_data()
    features = np.concatenate([batch for batch, _ in validation])
    assert features.shape == (12, 256)
    expected = program.base_of(first.model).predict_on_batch(program.scaled(first.validation[0]))
    assert features == pytest.approx(expected, abs=1e-5)
    files = sorted((tmp_path / "cache").rglob("*.features"))
    assert len(files) == 2
    monkeypatch.setattr(program, "scaled", lambda *_: 1 / 0)  # a second time nothing is computed
    again = np.concatenate([batch for batch, _ in CatDogClassifier(**settings).load_data()[1]])
    assert np.array_equal(features, again)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copy(dataset / "validation/dog/dog.0.png", dataset / "validation/cat/cat.0.png")
    changed = np.concatenate([batch for batch, _ in CatDogClassifier(**settings).load_data()[1]])
    assert not np.array_equal(features[0], changed[0])
    assert np.array_equal(features[1:], changed[1:])
    assert program.clear_cache() > 0
    assert not list((tmp_path / "cache").rglob("*.features"))


def test_features_are_whole_when_the_disk_is_full_in_the_middle(monkeypatch):
    class Base:
        layers, weights, output_shape = [build_model("signs", Settings()).layers[-1]], [], (None, 3)

        def predict_on_batch(self, photos):
            return photos.mean(axis=(1, 2))

    def write(name, state, chunks, facts):
        next(chunks)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(program, "read_cache", lambda name, state: None)
    monkeypatch.setattr(program, "write_cache", write)
    photos = np.random.default_rng(0).integers(0, 256, (70, 4, 4, 3), dtype=np.uint8)
    found = program.features_of(Base(), photos, "x", program.Console(quiet=True))
    assert found == pytest.approx(photos.mean(axis=(1, 2)) / 255, abs=1e-6)


def test_a_head_that_learned_from_features_answers_for_photos(pretrained, dataset, tmp_path, run):
    line = ["--dataset", dataset, "--weights", tmp_path / "net.h5", "--model", "features", "--base", SMALL, "--base-weights",
            pretrained, "--learning-rate", 0.001, "--epochs", 3, "--precision", "float32", "--json", "--seed", 1]
    code, out, _ = run(*line)
    summary, history = json.loads(out), program.read_history(tmp_path / "net_history.csv")
    assert code == 0
    assert history["loss"][2] < history["loss"][0]
    # Scored as a whole, on photos, it is the net whose head was validated on features.
    assert summary["validation"]["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-3)
    classifier = CatDogClassifier(weights=str(tmp_path / "net.h5"), precision="float32")
    classifier.load_weights()
    base = arrays(program.base_of(net("features")))
    assert moved(base, arrays(classifier.model)) == set()


def test_real_features_tell_real_photos_apart(real, tmp_path, run):
    """200 photos to learn from, seconds of training: nearly all of 200 others."""
    base = real / "mobilenet_7_5_224_tf_no_top.weights.h5"
    run("--prepare", real / "photos", "--split", "100,50,100", "--dataset", tmp_path / "data", "-q")
    _, out, _ = run("--dataset", tmp_path / "data", "--model", "features", "--base", "mobilenet-0.75", "--base-weights", base,
                    "--learning-rate", 1e-4, "--weights", tmp_path / "net.h5", "--seed", 0, "--json")
    assert json.loads(out)["test"]["accuracy"] >= 0.93


def test_fine_tuning_begins_with_the_frozen_net_and_goes_on_from_it(pretrained, dataset, tmp_path, run):
    line = ["--dataset", dataset, "--weights", tmp_path / "net.h5", "--base", SMALL, "--base-weights", pretrained,
            "--epochs", 1, "--steps", 1, "--precision", "float32"]
    code, _, err = run(*line, "--model", "finetune")
    assert code == 0
    assert "First frozen, which finetune goes on from." in err
    facts = program.facts_of(tmp_path / "net.h5")
    assert (facts["rung"], facts["base"]) == ("finetune", SMALL)
    assert not (tmp_path / "net.previous.h5").exists()  # it is one training
    code, _, err = run(*line, "--model", "frozen", "--fresh")
    before = CatDogClassifier(weights=str(tmp_path / "net.h5"))
    before.load_weights()
    code, _, err = run(*line, "--model", "finetune", "--learning-rate", 1e-9)
    assert "First frozen" not in err  # it is there, and has learned from the same photos
    after = CatDogClassifier(weights=str(tmp_path / "net.h5"))
    after.load_weights()
    for one, other in zip(before.model.get_weights(), after.model.get_weights(), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_vgg16_is_built_trained_a_step_saved_and_loaded(tmp_path):
    data = make_dataset(tmp_path / "data", {"train": 2, "validation": 1})
    settings = {"model": "finetune", "base_weights": "none", "weights": str(tmp_path / "vgg.h5"), "quiet": True}
    classifier = CatDogClassifier(**settings, epochs=1, steps=1, batch_size=2)
    classifier.train(data)
    assert classifier.summary["parameters"] == 16_812_353
    photo = data / "train/cat/cat.0.png"
    assert CatDogClassifier(weights=settings["weights"]).predict(photo)[0].probabilities == pytest.approx(
        classifier.predict(photo)[0].probabilities, abs=1e-5)


# The rung of a weights file. -------------------------------------------------------------------------------------------


def test_weights_of_another_rung_than_asked_for_are_refused(run, weights, dataset):
    code, _, err = run("--model", "baseline", "--weights", weights, "-f", dataset / "test/cat/cat.0.png")
    assert code == 1
    assert f"{weights} holds the weights of a net of the rung default, not baseline. Leave out --model" in err


def test_files_of_others_load_into_the_rung_that_they_are_of(tmp_path, run, dataset):
    """The weights of the tutorial's baseline, saved by Keras without a word about classes."""
    model = net("baseline")
    model.save(tmp_path / "theirs.h5", include_optimizer=False)
    photo = dataset / "test/cat/cat.0.png"
    _, out, _ = run("--model", "baseline", "--weights", tmp_path / "theirs.h5", "-f", photo, "--json")
    expected = forward(model, [program.read_photo(photo, 150)])[0]
    assert list(json.loads(out)["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
    assert run("--weights", tmp_path / "theirs.h5", "-f", photo)[0] == 1  # of the default rung they are not


@pytest.mark.parametrize(("flag", "value"), [("model", "resnet"), ("base", "vgg19")])
def test_a_rung_or_base_that_is_none_is_a_usage_error_that_names_all(run, flag, value):
    code, _, err = run(f"--{flag}", value)
    assert code == 2
    assert err == f"CatDogClassifier: --{flag} {value} is none of {', '.join(RUNGS if flag == 'model' else BASES)}\n"
    with pytest.raises(UsageError):
        CatDogClassifier(**{flag: value})


@pytest.mark.parametrize("facts", [
    {"rung": "frozen", "base": "vgg19", "classes": ["a", "b"]}, {"rung": "frozen", "base": None, "classes": ["a", "b"]},
    {"rung": "frozen", "base": ["vgg16"], "classes": ["a", "b"]}, {"rung": {}, "classes": ["a", "b"]},
    {"rung": "mnist", "classes": [str(number) for number in range(101)]}, {"rung": "mnist", "classes": ["a"]},
    {"rung": "mnist", "classes": ["a", "a", "b"]}])
def test_a_file_cannot_ask_for_a_net_that_there_is_not(facts, tmp_path):
    with pytest.raises(ValueError, match="does not know"):
        program.read_facts(json.dumps(facts).encode())


# Any number of classes. ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A dataset of three colours, and the weights of a net that tells them apart."""
    folder, rng = tmp_path_factory.mktemp("three"), np.random.default_rng(0)
    for split, count in {"train": 12, "validation": 6, "test": 6}.items():
        for place, name in enumerate(("green", "red", "violet")):
            for number in range(count):
                pixels = rng.integers(0, 120, (20, 20, 3), dtype=np.uint8)
                pixels[..., [1, 0, 2][place]] += 130
                path = folder / "data" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    classifier = CatDogClassifier(model="signs", weights=str(folder / "net.h5"), dataset=str(folder / "data"), epochs=25,
                                  learning_rate=0.003, seed=1, quiet=True)
    classifier.train()
    return folder


def test_a_net_of_three_classes_learns_answers_and_remembers_their_names(three, run):
    code, out, _ = run("--weights", three / "net.h5", "-d", three / "data/test", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["label"] for row in rows] == [Path(row["path"]).parent.name for row in rows]
    assert all(list(row["probabilities"]) == ["green", "red", "violet"] for row in rows)
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5) for row in rows)


def test_the_three_likeliest_are_shown_of_more_than_two(three, run, weights, dataset):
    _, out, err = run("--weights", three / "net.h5", "-f", three / "data/test/red/0.png")
    label, rest = out.split(maxsplit=1)
    assert label == "red"
    assert rest.count("green") == rest.count("violet") == 1
    assert "(then " in rest
    assert "then" not in run("--weights", weights, "-f", dataset / "test/cat/cat.0.png")[1]
    _, out, err = run("--weights", three / "net.h5", "-d", three / "data/test", "--csv")
    assert out.splitlines()[0] == "path,label,confidence,verdict,green,red,violet,error"
    assert err == "18 files: 6 green, 6 red, 6 violet, 0 unreadable\n"


def test_labels_of_more_than_two_classes_are_one_hot_and_of_two_are_not(three, dataset, tmp_path):
    _, batches = CatDogClassifier(model="signs", weights=str(tmp_path / "x.h5"), quiet=True).load_data(three / "data")
    truth = np.concatenate([labels for _, labels in batches])
    assert np.array_equal(truth, np.repeat(np.eye(3), 6, axis=0))
    _, batches = CatDogClassifier(model="signs", weights=str(tmp_path / "x.h5"), quiet=True).load_data(dataset)
    assert np.array_equal(np.concatenate([labels for _, labels in batches]), [[0]] * 6 + [[1]] * 6)


def test_unequal_classes_weigh_the_same_when_they_are_three():
    photos, labels = np.zeros((9, 4, 4, 3), np.uint8), np.array([[0], [0], [0], [0], [0], [1], [1], [2], [2]], np.float32)
    batches, weights = program.balanced(program.make_batches(photos, labels, 4, classes=3), labels)
    assert weights == pytest.approx([9 / 15, 9 / 6, 9 / 6])
    found = np.concatenate([weight for _, _, weight in batches])
    assert found[:, 0] == pytest.approx([0.6] * 5 + [1.5] * 4)


def test_steps_cut_a_pass_short_or_begin_another():
    photos = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    labels = np.zeros((10, 1), np.float32)

    def seen(steps, rng):
        batches = program.make_batches(photos, labels, 4, rng, steps=steps)
        assert len(batches) == len(list(batches)) == (steps or 3)
        return np.rint(np.concatenate([batch[:, 0, 0, 0] for batch, _ in batches]) * 255).astype(int).tolist()

    assert sorted(seen(0, np.random.default_rng(0))) == list(range(10))
    assert len(set(seen(2, np.random.default_rng(0)))) == 8
    twice = seen(5, np.random.default_rng(0))
    assert sorted(twice) == sorted([*range(10)] * 2)
    assert sorted(twice[:10]) == list(range(10))


@pytest.mark.slow
@pytest.mark.parametrize(("rung", "count"), [("happy", 150), ("mnist", 800), ("signs", 150)])
def test_the_rungs_for_other_pictures_learn_them(rung, count, tmp_path):
    data = draw_set(tmp_path / "data", rung, {"train": count, "validation": 40, "test": 100})
    classifier = CatDogClassifier(model=rung, weights=str(tmp_path / "net.h5"), seed=0, quiet=True)
    classifier.train(data)
    assert classifier.summary["test"]["accuracy"] >= 0.95


# --summary. ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rung", "words"), [("mnist", ["93,322", "(None, 3, 3, 64)"]), ("happy", ["37,633", "37,569"]),
                                             ("frozen", ["16,812,353", "2,097,665", "(None, 4, 4, 512)"])])
def test_the_summary_needs_neither_photos_nor_a_download(rung, words, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("--model", rung, "--summary", "--base-weights", "imagenet")
    assert code == 0
    assert all(word in out for word in words)
    assert "pip install pydot" in err
    _, out, _ = run("--model", rung, "--summary", "--json")
    assert json.loads(out)["parameters"] == COUNTS[rung]
    assert os.listdir() == []


def test_the_summary_is_drawn_where_graphviz_is(run, tmp_path, monkeypatch):
    import keras

    drawn = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "find_spec", lambda name: True)
    monkeypatch.setattr(program.shutil, "which", lambda name: name)
    monkeypatch.setattr(keras.utils, "plot_model", lambda model, to_file, **_: drawn.append((model.count_params(), to_file)))
    assert "Drawn in signs_net.png" in run("--model", "signs", "--summary")[2]
    assert drawn == [(307_615, "signs_net.png")]
    Path("signs_net.png").write_bytes(b"mine")
    assert "signs_net.png is there already" in run("--model", "signs", "--summary")[2]
    assert drawn == [(307_615, "signs_net.png")]


# Digits of Keras. ------------------------------------------------------------------------------------------------------


def test_the_digits_of_keras_become_a_dataset(run, tmp_path, monkeypatch):
    import keras

    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8), np.repeat(np.arange(3), 20)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: ((pixels[::2], labels[::2]), (pixels[1::2], labels[1::2])))
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("--prepare", "keras.datasets.mnist", "--split", "6,4,10", "--dataset", "digits")
    assert (code, out) == (0, "digits: 18 train, 12 validation, 30 test photos\n")
    first = sorted(Path("digits/train/1").iterdir())[0]
    assert np.array_equal(np.asarray(Image.open(first)), pixels[::2][labels[::2] == 1][0])
    last = {path.read_bytes() for path in Path("digits/test/2").iterdir()}
    assert {np.asarray(Image.open(path)).tobytes() for path in Path("digits/test/2").iterdir()} == {
        array.tobytes() for array in pixels[1::2][labels[1::2] == 2]}  # those that are meant for testing
    assert len(last) == 10


def test_digits_that_cannot_be_had_are_one_line(run, tmp_path, monkeypatch):
    import keras

    def offline():
        raise Exception("URL fetch failure on https://...")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", offline)
    code, _, err = run("--prepare", "keras.datasets.mnist", "--dataset", tmp_path / "digits")
    assert code == 1
    assert "cannot get keras.datasets.mnist: URL fetch failure" in err
    assert err.count("\n") == 1


def test_a_wrong_weights_file_says_so_for_every_rung(tmp_path):
    (tmp_path / "net.h5").write_bytes(program.pack_weights(net("mnist"), {"rung": "signs", "classes": ["a", "b"], "versions": {"keras": "3"}}))
    with pytest.raises(WeightsError, match="weights of another net"):
        CatDogClassifier(weights=str(tmp_path / "net.h5")).load_weights()


@pytest.mark.parametrize(("policy", "near"), [("float32", 1e-4), ("mixed_bfloat16", 0.05)])
def test_the_fused_normalisation_does_and_learns_what_keras_does(policy, near):
    import tensorflow as tf
    from keras import layers

    rng, found = np.random.default_rng(0), []
    photos, wanted = (rng.normal(2, 3, (8, 5, 5, 6)).astype(np.float32) for _ in range(2))
    numbers = [rng.uniform(0.5, 2, 6) for _ in range(4)]
    for kind in (program.fused_normalisation(), layers.BatchNormalization):
        layer = kind(momentum=0.9, dtype=policy)
        layer.build(photos.shape)
        layer.set_weights(numbers)
        maps = tf.cast(photos, layer.compute_dtype)
        with tf.GradientTape() as tape:
            answers = tf.cast(layer(maps, training=True), tf.float32)
            loss = tf.reduce_mean(tf.square(answers - wanted))
        slopes = tape.gradient(loss, [weight.value for weight in layer.trainable_weights])
        *same, variance = map(np.asarray, [answers, *slopes, *layer.get_weights()])
        found.append(same)
        divisor = int(kind is not layers.BatchNormalization)  # ours is the variance of what 200 numbers were drawn from
        expected = 0.9 * numbers[3] + 0.1 * photos.var(axis=(0, 1, 2), ddof=divisor)
        assert variance == pytest.approx(expected, rel=near / 10)
    for ours, theirs in zip(*found, strict=True):
        assert ours == pytest.approx(theirs, rel=near, abs=near)


def test_keras_own_normalisation_answers_with_what_the_fused_one_learned(tmp_path, monkeypatch):
    from keras import layers

    model, path = net("residual"), tmp_path / "net.h5"
    path.write_bytes(program.pack_weights(model, {"versions": {"keras": "3"}}))
    monkeypatch.setattr(program, "fused_normalisation", lambda: layers.BatchNormalization)
    theirs = build_model("residual", Settings())
    theirs.load_weights(path)
    photos = np.random.default_rng(1).integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)
    assert forward(theirs, photos) == pytest.approx(forward(model, photos), abs=1e-6)


@pytest.mark.parametrize(("settings", "count", "drawings", "epochs"), [
    ({}, 2_000, False, 100), ({}, 8_000, False, 100), ({}, 16_000, False, 50), ({}, 40_000, False, 30), ({"epochs": 7}, 2_000, False, 7),
    ({}, 300, True, 30), ({"recipe": "tutorial"}, 2_000, False, 30), ({"augment": False}, 2_000, False, 30),
    ({"steps": 300}, 50, False, 84), ({"model": "happy"}, 600, False, 40), ({"model": "features"}, 2_000, False, 30)])
def test_fewer_photos_are_seen_more_often(settings, count, drawings, epochs):
    classifier = CatDogClassifier(**settings)
    classifier.drawings = drawings
    classifier._set_epochs(count)
    assert classifier.settings.epochs == epochs


def test_the_epochs_follow_the_photos_of_each_training():
    classifier, epochs = CatDogClassifier(), []
    for count, drawings in ((2_000, False), (16_000, False), (2_000, False), (2_000, True)):
        classifier.drawings = drawings
        classifier._set_epochs(count)
        epochs.append(classifier.settings.epochs)
    assert epochs == [100, 50, 100, 30]


def test_the_best_recipe_shows_residual_smaller_photos_than_it_answers(monkeypatch):
    shown = []
    monkeypatch.setattr(program, "make_batches", lambda *arguments: shown.append(arguments[-1] and arguments[-1]()))
    photos = np.zeros((2, 160, 160, 3), np.uint8)
    for settings in ({}, {"recipe": "tutorial"}, {"augment": False}, {"model": "default"}):
        CatDogClassifier(**{"model": "residual", **settings})._batches(photos, np.zeros((2, 1)), "train", np.random.default_rng(0))
    assert shown == [112, None, None, None]


def test_the_parts_that_residual_learns_from_grow():
    classifier = CatDogClassifier(model="residual", epochs=6)
    side = classifier._side
    assert side() == 112  # as in the last epochs, where no training is
    classifier._progress = program.Progress("float32", {"loss": [0.5] * 10}, start=10)
    sides = []
    for _ in range(6):
        sides.append(side())
        classifier._progress.history["loss"].append(0.5)
    assert sides == [64, 64, 80, 96, 96, 112]


@pytest.mark.parametrize("start", ["train", "_fold"])
def test_each_training_begins_with_the_smallest_parts(start, tmp_path, monkeypatch):
    """What feeds it is asked as it is about to run."""
    classifier = CatDogClassifier(model="residual", epochs=4, weights=str(tmp_path / "net.h5"), quiet=True)
    classifier.rng, rows = np.random.default_rng(0), np.arange(4)
    photos, labels = np.zeros((4, 160, 160, 3), np.uint8), np.float32([[0], [1], [0], [1]])
    sides = []

    def run(training, *batches):
        sides.append(classifier._side())
        training.ending = "diverged"

    monkeypatch.setattr(program.Training, "run", run)
    monkeypatch.setattr(program, "load_photos", lambda *arguments: (photos, labels))
    with pytest.raises(program.TrainingError):
        classifier.train("dataset") if start == "train" else classifier._fold(photos, labels, "place", rows[:2], rows[2:])
    assert sides == [64]


def test_what_learns_from_smaller_photos_is_the_net_that_answers():
    classifier = CatDogClassifier(model="residual")
    model = classifier.createModel()
    fitted = classifier._fitted()
    assert fitted is not model and fitted.input_shape == (None, None, None, 3) and model.input_shape == (None, 160, 160, 3)
    before = model.get_weights()
    fitted.train_on_batch(np.random.default_rng(0).random((4, 112, 112, 3)), np.float32([[0], [1], [0], [1]]))
    assert all(map(np.array_equal, fitted.get_weights(), model.get_weights()))
    assert sum(not np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True)) == len(before)
