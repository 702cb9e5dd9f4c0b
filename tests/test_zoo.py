"""Room 7: the net is the tutorial's, number by number, in every precision; TensorFlow keeps quiet."""

import itertools

import numpy as np
import pytest

import CatDogClassifier as program
from CatDogClassifier import Settings, build_model, describe_gpu
from conftest import forward, python

# Layer, output shape without the batch, parameters: the summary that the tutorial prints.
TUTORIAL = [
    ("Conv2D", (148, 148, 32), 896), ("MaxPooling2D", (74, 74, 32), 0),
    ("Conv2D", (72, 72, 64), 18_496), ("MaxPooling2D", (36, 36, 64), 0),
    ("Conv2D", (34, 34, 128), 73_856), ("MaxPooling2D", (17, 17, 128), 0),
    ("Conv2D", (15, 15, 128), 147_584), ("MaxPooling2D", (7, 7, 128), 0),
    ("Conv2D", (5, 5, 256), 295_168), ("MaxPooling2D", (2, 2, 256), 0),
    ("Flatten", (1024,), 0), ("Dropout", (1024,), 0), ("Dense", (512,), 524_800), ("Dense", (1,), 513),
]


@pytest.fixture(scope="module")
def model():
    return build_model("default", Settings())


def test_the_summary_is_the_tutorials(model):
    layers = [(type(layer).__name__, layer.output.shape[1:], layer.count_params()) for layer in model.layers]
    assert layers == TUTORIAL
    assert model.count_params() == 1_061_313
    assert sum(np.prod(weight.shape) for weight in model.trainable_weights) == 1_061_313


def test_the_tutorials_recipe_is_the_tutorials():
    settings = program.CatDogClassifier(recipe="tutorial").settings
    model = build_model("default", settings)
    assert (settings.epochs, settings.batch_size, settings.optimizer) == (30, 32, "rmsprop")
    assert type(model.optimizer).__name__ == "RMSprop"
    assert float(model.optimizer.learning_rate) == pytest.approx(0.001)
    assert model.loss == "binary_crossentropy"
    assert model.layers[11].rate == 0.5
    assert [layer.activation.__name__ for layer in model.layers if hasattr(layer, "activation")] == ["relu"] * 6 + ["sigmoid"]


@pytest.mark.parametrize("name", program.OPTIMIZERS)
def test_flags_choose_optimizer_and_learning_rate(name):
    model = build_model("default", Settings(optimizer=name, learning_rate=0.02))
    assert type(model.optimizer).__name__.lower() == name
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)


def test_muon_moves_a_kernel_as_far_in_all_directions_and_a_dense_layer_as_adamw_does():
    import keras

    kernel, dense = (keras.Variable(np.zeros(shape, np.float32)) for shape in ((3, 3, 4, 8), (8, 4)))
    gradients = [np.random.default_rng(0).normal(size=variable.shape).astype(np.float32) for variable in (kernel, dense)]
    gradients[0][..., 0] *= 100  # one direction is far stronger than all others
    optimizer = program.muon()
    optimizer.learning_rate = 0.01
    optimizer.apply(gradients, [kernel, dense])
    strengths = np.linalg.svd(kernel.numpy().reshape(36, 8) / (0.01 * 0.2 * 36**0.5), compute_uv=False)
    assert strengths.min() > 0.5 and strengths.max() < 1.5, strengths
    np.testing.assert_allclose(dense.numpy(), -0.01 * np.sign(gradients[1]), rtol=1e-4)  # Adam's first step


@pytest.mark.parametrize("policy", program.PRECISIONS.values())
def test_every_precision_has_float32_weights_and_a_float32_answer(policy, model):
    import keras

    net = build_model("default", Settings(), policy)
    assert net.layers[0].compute_dtype == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in net.weights} == {"float32"}
    assert net.layers[-1].output.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"  # the setting of the process is as it was
    net.set_weights(model.get_weights())
    photos = np.random.default_rng(0).integers(0, 256, (2, 150, 150, 3), dtype=np.uint8)
    assert forward(net, photos) == pytest.approx(forward(model, photos), abs=0.01)


@pytest.mark.parametrize(
    ("details", "name", "policy"),
    [({"device_name": "NVIDIA H200", "compute_capability": (9, 0)}, "GPU (NVIDIA H200)", "mixed_bfloat16"),
     ({"device_name": "Tesla T4", "compute_capability": (7, 5)}, "GPU (Tesla T4)", "mixed_float16"),
     ({"device_name": "GTX 1080", "compute_capability": (6, 1)}, "GPU (GTX 1080)", "float32"),
     ({}, "GPU (unnamed)", "float32")],
)
def test_a_gpu_trains_in_what_it_has_units_for(details, name, policy):
    assert describe_gpu(details) == program.Device(name, policy)


@pytest.mark.parametrize(
    ("half", "single", "policy"),
    [([0.09, 0.006, 0.005], [0.02, 0.010, 0.011], "mixed_bfloat16"),  # the first call of each has to set up
     ([0.09, 0.009, 0.008], [0.02, 0.010, 0.011], "float32"),  # too little gain to be no noise
     ([0.9, 0.7, 0.8], [0.02, 0.010, 0.011], "float32")],  # a processor that has to emulate it
)
def test_a_processor_trains_in_what_measures_faster(half, single, policy, monkeypatch):
    times = itertools.cycle(itertools.chain.from_iterable(zip(half, single, strict=True)))
    monkeypatch.setattr(program.timeit, "timeit", lambda work, **_: (work(), next(times))[1])
    assert program.faster_policy.__wrapped__() == policy


def test_a_gpu_is_used_with_memory_growth(monkeypatch):
    import tensorflow as tf

    grown = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu:0", "gpu:1"] if kind == "GPU" else [])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: grown.append((gpu, on)))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"device_name": gpu, "compute_capability": (8, 9)})
    assert program.start_tensorflow(Settings()) == program.Device("GPU (gpu:0)", "mixed_bfloat16")
    assert grown == [("gpu:0", True), ("gpu:1", True)]


def test_tensorflow_starts_without_a_word():
    code = "import CatDogClassifier as p; p.start_tensorflow(p.Settings()); import tensorflow as tf; print(tf.__version__)"
    done = python("-c", code, text=True)
    assert done.returncode == 0
    assert done.stderr == ""


def test_native_messages_are_held_back(capfd):
    import os

    with program.hushed():
        os.write(2, b"a word from native code")
    assert capfd.readouterr().err == ""
