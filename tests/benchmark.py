"""Measure how fast the program is, against the tutorials' way and against PyTorch; prints the table of the README.

    python tests/benchmark.py PHOTOS ORIGINALS [--repeats 5] [--files 1000000] [--work DIR] [--only STAGE ...]

PHOTOS holds 16,000 photos, cat.0.jpg ... dog.7999.jpg (Kaggle's layout), ORIGINALS some in their original sizes. scipy is
needed for the tutorials' way, torch and torchvision for PyTorch, ai-edge-litert for LiteRT; what is missing is left out.
Nothing else should run meanwhile: about 35 minutes on two cores. Each stage runs in a process of its own; every figure is
the median of the repeats, with the lowest and the highest in brackets.
"""

import argparse
import contextlib
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

import numpy as np  # noqa: E402

import CatDogClassifier as program  # noqa: E402

SIZE, BATCH = 150, 32


# What is measured: each function returns the rates, or seconds, of its repeats; it runs in a process of its own.


def rates(count, work, repeats):
    """`count` divided by the seconds that `work()` takes, after one run to warm up."""
    work()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(count / (time.perf_counter() - started))
    return found


def resident_batch():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8), rng.integers(0, 2, (BATCH, 1)).astype(np.float32)


def decode(options):
    paths = list(program.list_photos(options.originals)) * 5
    return rates(len(paths), lambda: sum(1 for _ in program.read_photos(paths, SIZE)), options.repeats)


def augment(options, operation=False):
    """The augmentation of a batch; or TensorFlow's own operation for the same maps."""
    program.start_tensorflow(program.Settings())
    import tensorflow as tf

    def project(photos, affines):
        maps = tf.concat([affines, tf.zeros((BATCH, 2))], axis=1)
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.cast(photos, tf.float32), transforms=maps, output_shape=(SIZE, SIZE), fill_value=0.0,
            interpolation="BILINEAR", fill_mode="NEAREST") / 255.0

    warp, (photos, _) = tf.function(project if operation else program.warp, jit_compile=not operation), resident_batch()
    affines = program.draw_affines(np.random.default_rng(0), BATCH, SIZE)
    return rates(100 * BATCH, lambda: [warp(photos, affines) for _ in range(100)], options.repeats)


def step(options, precision):
    """The bare training step on one batch that stays in memory."""
    program.start_tensorflow(program.Settings())
    import tensorflow as tf

    model, (photos, labels) = program.build_model("default", program.Settings(), program.PRECISIONS[precision]), resident_batch()
    photos, labels = tf.constant(photos / np.float32(255)), tf.constant(labels)
    return rates(50 * BATCH, lambda: [model.train_on_batch(photos, labels) for _ in range(50)], options.repeats)


def step_residual(options, fused=True):
    """The bare training step of the residual net in bfloat16, on parts of photos; `fused`: its normalisation is."""
    program.start_tensorflow(program.Settings())
    import tensorflow as tf
    from keras import layers

    if not fused:
        program.fused_normalisation = lambda: layers.BatchNormalization
    classifier = program.CatDogClassifier(model="residual", precision="bfloat16", quiet=True)
    classifier.createModel()
    model, side, count = classifier._fitted(), program.RUNGS["residual"].crops[-1], classifier.settings.batch_size
    photos, labels = tf.random.uniform((count, side, side, 3)), tf.cast(tf.range(count)[:, None] % 2, tf.float32)
    return rates(10 * count, lambda: [model.train_on_batch(photos, labels) for _ in range(10)], options.repeats)


def forward(options, litert=False):
    """The forward pass alone, float32, 64 photos at a time."""
    program.start_tensorflow(program.Settings())
    model, photos = program.build_model("default", program.Settings()), np.repeat(resident_batch()[0], 2, axis=0)
    answer = program.litert_outputs(program.pack_litert(model)) if litert else lambda photos: program.shares_of(program.outputs(model, photos))
    return rates(20 * 64, lambda: [answer(photos) for _ in range(20)], options.repeats)


def ours(options, dataset, epochs=None, recipe="tutorial"):
    """Training as the program does it, with a recipe: [photos a second while training, seconds of the whole epoch] of each epoch."""
    weights, epochs = str(options.work / "ours.h5"), (epochs or options.repeats) + 1
    classifier = program.CatDogClassifier(weights=weights, epochs=epochs, recipe=recipe, patience=0, fresh=True, quiet=True)
    classifier.createModel()
    from keras.callbacks import History

    class Timed(History):
        def on_epoch_begin(self, epoch, logs=None):
            self.began = time.perf_counter()

        def on_test_begin(self, logs=None):
            self.trained = time.perf_counter() - self.began

        def on_epoch_end(self, epoch, logs=None):
            found.append([count / self.trained, time.perf_counter() - self.began])
            super().on_epoch_end(epoch, logs)

    found, count = [], len(list(program.list_photos(options.work / dataset / "train")))
    classifier.history = Timed()
    classifier.train(options.work / dataset)
    print(f"{dataset}: trained in {classifier.summary['precision']}", file=sys.stderr)
    return found[1:]


def second_start(options, dataset):
    """Seconds from the import of TensorFlow to the first training step, on a dataset that was trained on before."""
    found = []
    for _ in range(options.repeats):
        classifier = program.CatDogClassifier(quiet=True)
        classifier.device  # noqa: B018
        started = time.perf_counter()
        train, _ = classifier.load_data(options.work / dataset)
        photos, labels = next(iter(train))
        classifier.createModel().train_on_batch(photos, labels)
        found.append(time.perf_counter() - started)
    return found


def tutorial(options, dataset):
    """The tutorials' way: ImageDataGenerator and fit, the same net and augmentation; [photos a second, seconds an epoch]."""
    program.start_tensorflow(program.Settings())
    import tensorflow as tf

    generator = tf.keras.preprocessing.image.ImageDataGenerator
    augmented = generator(rescale=1 / 255, rotation_range=40, width_shift_range=0.2, height_shift_range=0.2, shear_range=0.2,
                          zoom_range=0.2, horizontal_flip=True)

    def flow(source, split, workers):
        with contextlib.redirect_stdout(sys.stderr):
            batches = source.flow_from_directory(options.work / dataset / split, (SIZE, SIZE), batch_size=BATCH, class_mode="binary")
        batches.workers = workers
        return batches

    def epoch(workers, **size):
        train, validation = flow(augmented, "train", workers), flow(generator(rescale=1 / 255), "validation", workers)
        started = time.perf_counter()
        model.fit(train, validation_data=None if size else validation, verbose=0, **size)
        seconds = time.perf_counter() - started
        return [train.samples / seconds, seconds]

    model = program.build_model("default", program.Settings())
    epoch(1, steps_per_epoch=5)
    workers = min((1, 2, 4), key=lambda workers: epoch(workers, steps_per_epoch=20)[1])
    print(f"{dataset}: ImageDataGenerator is best with {workers} workers", file=sys.stderr)
    return [epoch(workers) for _ in range(options.repeats)]


def torch_net():
    """The same net in PyTorch."""
    from torch import nn

    layers, channels = [], 3
    for filters in (32, 64, 128, 128, 256):
        layers += [nn.Conv2d(channels, filters, 3), nn.ReLU(), nn.MaxPool2d(2)]
        channels = filters
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 1))


def torch_step(net, half, layout):
    """A function that trains the net on a batch."""
    import torch

    optimizer = torch.optim.RMSprop(net.to(memory_format=layout).parameters())

    def train(photos, labels):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = net(photos.contiguous(memory_format=layout))
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float()[:, 0], labels.float()).backward()
        optimizer.step()

    return train


def pytorch(options, dataset):
    """PyTorch: DataLoader with 2 workers, torchvision's augmentation, its best layout and precision here; photos a second."""
    import torch
    from torchvision import datasets, transforms

    def load(part, *augmentation):
        prepare = transforms.Compose([transforms.Resize((SIZE, SIZE)), *augmentation, transforms.ToTensor()])
        return torch.utils.data.DataLoader(datasets.ImageFolder(options.work / dataset / part, prepare), BATCH, shuffle=True,
                                           num_workers=2, persistent_workers=True)

    photos, labels = torch.rand(BATCH, 3, SIZE, SIZE), torch.zeros(BATCH)
    choices = list(itertools.product((False, True), (torch.contiguous_format, torch.channels_last)))
    speed = {}
    for choice in choices:
        train = torch_step(torch_net(), *choice)
        speed[choice] = statistics.median(rates(5 * BATCH, lambda train=train: [train(photos, labels) for _ in range(5)], 3))
    best = max(speed, key=speed.get)
    print(f"{dataset}: PyTorch is best with bfloat16 {best[0]}, {best[1]}: {speed[best]:.0f} a second in the bare step", file=sys.stderr)
    train = torch_step(torch_net(), *best)
    loader = load("train", transforms.RandomAffine(40, (0.2, 0.2), (0.8, 1.2), 0.2), transforms.RandomHorizontalFlip())
    return rates(len(loader.dataset), lambda: [train(*batch) for batch in loader], options.repeats)


def folder(options, litert=False, weights=None):
    """-d with the weights loaded: photos a second, reading included."""
    if not litert:
        sys.modules["ai_edge_litert"] = None
    classifier = program.CatDogClassifier(weights=str(weights or options.work / "net.h5"), quiet=True)
    paths = list(program.list_photos(options.originals))
    paths *= 10_000 // len(paths)
    list(classifier.predict_each(paths[:200]))
    return rates(len(paths), lambda: sum(1 for _ in classifier.predict_each(paths)), options.repeats)


def folder_loop(options):
    """The tutorials' way to classify: load_img, predict, one by one."""
    program.start_tensorflow(program.Settings())
    import keras

    model, paths = program.build_model("default", program.Settings()), list(program.list_photos(options.originals))[:100]

    def loop():
        for path in paths:
            photo = keras.utils.img_to_array(keras.utils.load_img(path, target_size=(SIZE, SIZE))) / 255
            model.predict(photo[None], verbose=0)

    return rates(len(paths), loop, options.repeats)


def folder_pytorch(options):
    """PyTorch on a folder: DataLoader with 2 workers, float32, batches of 64, its better layout."""
    import torch
    from PIL import Image
    from torchvision import transforms

    prepare = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.ToTensor()])

    class Photos(torch.utils.data.Dataset):
        paths = list(program.list_photos(options.originals)) * 10

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, place):
            return prepare(Image.open(self.paths[place]).convert("RGB"))

    def classify(layout):
        net = torch_net().eval().to(memory_format=layout)
        loader = torch.utils.data.DataLoader(Photos(), 64, num_workers=2)
        with torch.inference_mode():
            return rates(len(Photos.paths), lambda: [net(photos.contiguous(memory_format=layout)) for photos in loader], options.repeats)

    return max((classify(layout) for layout in (torch.contiguous_format, torch.channels_last)), key=statistics.median)


def seconds(command, repeats):
    """How long a process takes, from its start to its end, the first run left out."""
    found = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        found.append(time.perf_counter() - started)
    return found[1:]


def one_photo(options, litert=False):
    hide = "" if litert else "import sys; sys.modules['ai_edge_litert'] = None; "
    photo = next(program.list_photos(options.originals))
    call = ["-f", photo, "--weights", str(options.work / "net.h5")]
    code = f"{hide}import sys; sys.path.insert(0, {str(REPO)!r}); import CatDogClassifier as p; sys.exit(p.main({call!r}))"
    return seconds(["-c", code], options.repeats)


def help_and_typos(options):
    program_file = str(REPO / "CatDogClassifier.py")
    calls = (["-h"], ["--version"], ["--epoch", "x"], ["-f"])
    return [max(statistics.median(seconds([program_file, *call], options.repeats)) for call in calls)]


def peak(command, lines=None):
    """Run the program: [the peak of its private memory in MB, seconds to its first line of output]; Linux only."""
    process = subprocess.Popen([sys.executable, str(REPO / "CatDogClassifier.py"), *map(str, command)], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    started, highest, first = time.perf_counter(), 0, None
    os.set_blocking(process.stdout.fileno(), False)
    seen = 0
    while process.poll() is None and (lines is None or seen < lines):
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            highest = max(highest, int(next(line for line in status if line.startswith("RssAnon")).split()[1]) / 1024)
        seen += len(process.stdout.readlines())
        first = first or (seen and time.perf_counter() - started)
        time.sleep(0.02)
    process.kill()
    process.wait()
    return [highest, first]


def training_memory(options, dataset):
    return [peak(["--dataset", options.work / dataset, "--weights", options.work / "memory.h5", "--epochs", 1, "--fresh"])]


def folder_memory(options, count):
    """-d on a folder of so many links to photos, until 500 answers are there."""
    target = options.work / f"links{count}"
    photos = itertools.cycle(program.list_photos(options.originals))
    if not target.exists():
        target.mkdir()
        for i, photo in zip(range(count), photos, strict=False):
            os.symlink(photo, target / f"photo{i}.jpg")
    return [peak(["-d", target, "--weights", options.work / "net.h5"], 500)]


# What the stages run on.


def build(options):
    """Datasets of links: train-N, with N training photos and 1,000 to validate; camera, photos of 4 megapixels."""
    from PIL import Image

    options.work.mkdir(parents=True, exist_ok=True)
    for count in (1000, 2000, 4000, 16000):
        for label, part in itertools.product(("cat", "dog"), ("train", "validation")):
            where = options.work / f"train-{count}" / part / label
            if not where.exists():
                where.mkdir(parents=True)
                for i in range(count // 2 if part == "train" else 500):
                    os.symlink(options.photos / f"{label}.{i}.jpg", where / f"{label}.{i}.jpg")
    for path in program.list_photos(options.originals):
        name = Path(path).name
        for part in ("train", "validation"):
            target = options.work / "camera" / part / name.split(".")[0] / name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with Image.open(path) as image:
                    image.convert("RGB").resize((2304, 1728)).save(target, quality=90)
    if not (options.work / "net.h5").exists():
        program.CatDogClassifier(weights=str(options.work / "net.h5"), epochs=1, quiet=True).train(options.work / "train-1000")


STAGES = {  # name: (what it says, function, further arguments, unit)
    "decode": ("reading originals (D)", decode, (), "photos/s"),
    "augment": ("augmenting a batch", augment, (), "photos/s"),
    "augment-op": ("the same, ImageProjectiveTransformV3", augment, (True,), "photos/s"),
    "step32": ("bare training step, float32", step, ("float32",), "photos/s"),
    "step16": ("bare training step, bfloat16", step, ("bfloat16",), "photos/s"),
    "residual": ("the same, residual", step_residual, (), "photos/s"),
    "residual-unfused": ("the same, Keras' normalisation", step_residual, (False,), "photos/s"),
    "forward": ("forward pass, float32 (F)", forward, (), "photos/s"),
    "forward-litert": ("forward pass, LiteRT", forward, (True,), "photos/s"),
    "ours": ("training, 16,000 photos", ours, ("train-16000",), "photos/s"),
    "best": ("the same, the default recipe", ours, ("train-16000", None, "best"), "photos/s"),
    "ours4000": ("training, 4,000 photos", ours, ("train-4000",), "photos/s"),
    "ours1000": ("training, 1,000 photos", ours, ("train-1000", 10), "photos/s"),
    "start": ("second run: to the first step", second_start, ("train-16000",), "s"),
    "tutorial": ("the tutorials' way, 16,000 photos", tutorial, ("train-16000",), "photos/s"),
    "pytorch": ("PyTorch, training, 4,000 photos", pytorch, ("train-4000",), "photos/s"),
    "camera": ("training, 4-megapixel photos", ours, ("camera",), "photos/s"),
    "camera-tutorial": ("the tutorials' way, 4 megapixels", tutorial, ("camera",), "photos/s"),
    "folder": ("-d, 10,000 photos", folder, (), "photos/s"),
    "folder-litert": ("-d, 10,000 photos, LiteRT", folder, (True,), "photos/s"),
    "folder-box": ("the same, the net in the box", folder, (True, program.BOX), "photos/s"),
    "folder-loop": ("load_img and predict, one by one", folder_loop, (), "photos/s"),
    "folder-pytorch": ("PyTorch, folder, float32", folder_pytorch, (), "photos/s"),
    "import": ("import tensorflow", lambda options: seconds(["-c", "import tensorflow"], options.repeats), (), "s"),
    "photo": ("-f, one photo", one_photo, (), "s"),
    "photo-litert": ("-f, one photo, LiteRT", one_photo, (True,), "s"),
    "help": ("-h, --version, typos: the slowest", help_and_typos, (), "s"),
    "memory2000": ("peak memory, training on 2,000", training_memory, ("train-2000",), "MB"),
    "memory16000": ("peak memory, training on 16,000", training_memory, ("train-16000",), "MB"),
    "files1000": ("peak memory, -d on 1,000 files", folder_memory, (1000,), "MB"),
    "files": ("peak memory, -d on a million", folder_memory, (), "MB"),
}


def measure(name, options):
    """The figures of one stage, from a process of its own; None when it failed, for want of a library for one."""
    line = [sys.executable, __file__, str(options.photos), str(options.originals), "--work", str(options.work), "--repeats",
            str(options.repeats), "--files", str(options.files), "--stage", name]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    notes = [text for text in done.stderr.splitlines() if ": " in text and ("best with" in text or "trained in" in text)]
    if done.returncode:
        print(f"{STAGES[name][0]:36} left out: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}", flush=True)
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    firsts = [value[0] if isinstance(value, list) else value for value in found]
    rest = [value[1] for value in found if isinstance(value, list)]
    digits = 2 if STAGES[name][3] == "s" else 0
    figure = {"median": statistics.median(firsts), "second": statistics.median(rest) if rest and None not in rest else None}
    seconds = f"  {figure['second']:.1f} s" if figure["second"] else ""
    print(f"{STAGES[name][0]:36} {figure['median']:8.{digits}f} {STAGES[name][3]:9} [{min(firsts):.{digits}f} .. {max(firsts):.{digits}f}]"
          f"{seconds}{''.join('  # ' + note.partition(': ')[2] for note in notes)}", flush=True)
    return figure


def ratios(of):
    """What the figures promise, as (text, value, goal) rows, where all that is needed was measured."""
    def value(name, which="median"):
        return of[name][which]

    rows = [
        ("training against the bare step in its precision", lambda: value("ours") / max(value("step16"), value("step32")), ">= 0.85"),
        ("minutes of 30 epochs by the default recipe, 16,000 photos", lambda: value("best", "second") / 2, "<= 25"),
        ("seconds an epoch, that recipe against the tutorials'", lambda: value("best", "second") / value("ours", "second"), ""),
        ("seconds an epoch, tutorials' way against ours", lambda: value("tutorial", "second") / value("ours", "second"), ">= 2.2"),
        ("the same, 4-megapixel photos", lambda: value("camera-tutorial", "second") / value("camera", "second"), ">= 3"),
        ("training against PyTorch", lambda: value("ours") / value("pytorch"), ">= 2"),
        ("1,000 photos against 16,000, photos/s", lambda: value("ours1000") / value("ours"), "0.9 .. 1.1"),
        ("4,000 photos against 16,000, photos/s", lambda: value("ours4000") / value("ours"), "0.9 .. 1.1"),
        ("-d against one by one", lambda: value("folder") / value("folder-loop"), ">= 20"),
        ("-d against 1/(1/D + 1/F)", lambda: value("folder") * (1 / value("decode") + 1 / value("forward")), ">= 0.85"),
        ("-d against PyTorch", lambda: value("folder") / value("folder-pytorch"), ">= 2"),
        ("-d with LiteRT against without", lambda: value("folder-litert") / value("folder"), ""),
        ("-f against import tensorflow", lambda: value("photo") / value("import"), "<= 1.3"),
        ("-f with LiteRT against import tensorflow", lambda: value("photo-litert") / value("import"), "<= 0.2"),
        ("MB more for 16,000 than for 2,000 photos", lambda: value("memory16000") - value("memory2000"), "<= 250"),
        ("MB more for a million files than for 1,000", lambda: value("files") - value("files1000"), "<= 250"),
    ]
    for text, formula, goal in rows:
        with contextlib.suppress(KeyError, TypeError):
            yield text, formula(), goal


def table(of, machine):
    """The table of the README, as lines; what was not measured is left empty."""
    def cell(*names, which="median", digits=0, unit=""):
        figures = [of[name][which] for name in names if of.get(name) and of[name][which]]
        texts = [f"{figure:,.{digits}f}{unit}" for figure in figures]
        return texts[0] + (f" (with LiteRT {texts[1]})" if len(texts) > 1 else "") if texts else ""

    seconds = {"which": "second", "digits": 1, "unit": " s"}
    rows = [
        ("training, photos a second", cell("ours"), cell("tutorial"), cell("pytorch")),
        ("an epoch: 16,000 photos, 1,000 to validate", cell("ours", **seconds), cell("tutorial", **seconds), ""),
        ("an epoch: 200 photos of 4 megapixels, 200 to validate", cell("camera", **seconds), cell("camera-tutorial", **seconds), ""),
        ("classifying a folder, photos a second", cell("folder", "folder-litert"), cell("folder-loop"), cell("folder-pytorch")),
        ("one photo, from the start of the program", cell("photo", "photo-litert", digits=1, unit=" s"), "", ""),
    ]
    head = [(machine, "this program", "the tutorials' way", "PyTorch"), ("-",) * 4]
    return ["|" + "|".join(row) + "|" if row[0] == "-" else "| " + " | ".join(row) + " |" for row in head + rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=lambda text: Path(text).resolve())
    parser.add_argument("originals", type=lambda text: Path(text).resolve())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "catdog-benchmark"))
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["XDG_CACHE_HOME"] = str(options.work / "cache")
    if options.stage:
        _, function, more, _ = STAGES[options.stage]
        more = (options.files,) if options.stage == "files" else more
        print(json.dumps(function(options, *more)))
        return
    build(options)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras", "numpy", "pillow")]
    model = next((line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    machine = f"{os.cpu_count()} cores, {model or platform.processor()}"
    print(f"{machine}; Python {platform.python_version()}, {', '.join(versions)}", flush=True)
    of = {name: measure(name, options) for name in options.only}
    print()
    for text, value, goal in ratios(of):
        print(f"{text:52} {value:8.2f}   {goal}")
    print("", *table(of, machine), sep="\n")


if __name__ == "__main__":
    main()
