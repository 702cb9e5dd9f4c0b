"""Measure how fast the program is, against the tutorials' way and against PyTorch.

    python tests/measure/benchmark.py PHOTOS ORIGINALS [--repeats 5] [--files 1000000] [--work DIR]
                                      [--before DIR] [--only STAGE ...]

PHOTOS holds 16,000 photos, cat.0.jpg ... dog.7999.jpg (Kaggle's layout), ORIGINALS some in their
original sizes, DIR an earlier version of the program with its own net. scipy is needed for the
tutorials' way, torch and torchvision for PyTorch, ai-edge-litert for LiteRT, onnx, tf2onnx and
onnxruntime for that, ultralytics for theirs, ray for nodes; what is missing is left out. Nothing
else should run meanwhile: about 50 minutes on two cores. Each stage runs in a process of its own;
every figure is the median of the repeats, with the lowest and the highest in brackets. The table of
the README comes last.
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

import numpy as np

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))
import CatDogClassifier as program  # noqa: E402
from CatDogClassifier import CatDogClassifier  # noqa: E402

SIZE, BATCH = 150, 32
BOX_SIZE = program.BASES["efficientnet-lite0"].size


# What is measured: each function gives the rates, or seconds, of its repeats, in its own process.


def rates(count, work, repeats):
    """`count` divided by the seconds that `work()` takes, after one run to warm up."""
    work()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(count / (time.perf_counter() - started))
    return found


def new_net(**settings):
    """A compiled net of the tutorials' recipe, as createModel makes it."""
    settings = {"recipe": "tutorial", "quiet": True, **settings}
    return CatDogClassifier(**settings).createModel()


def resident_batch():
    """Random photos and labels."""
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8)
    return photos, rng.integers(0, 2, (BATCH, 1)).astype(np.float32)


def decode(options, size=SIZE):
    """Reading photos."""
    paths = list(program.list_photos(options.originals)) * 5
    return rates(
        len(paths), lambda: sum(1 for _ in program.read_photos(paths, size)), options.repeats
    )


def augment(options):
    """The augmentation of a batch."""
    program.start_tensorflow(program.Settings())
    import tensorflow as tf

    affines = program.draw_affines(np.random.default_rng(0), BATCH, SIZE)
    warp, photos = tf.function(program.warp), resident_batch()[0]
    return rates(100 * BATCH, lambda: [warp(photos, affines) for _ in range(100)], options.repeats)


def step(options, **settings):
    """The bare training step on one batch that stays in memory."""
    model, (photos, labels) = new_net(**settings), resident_batch()
    import tensorflow as tf

    photos, labels = tf.constant(photos / np.float32(255)), tf.constant(labels)
    return rates(
        50 * BATCH,
        lambda: [model.train_on_batch(photos, labels) for _ in range(50)],
        options.repeats,
    )


def forward(options, litert=False):
    """The forward pass alone, float32, 64 photos at a time."""
    model, photos = new_net(), np.repeat(resident_batch()[0], 2, axis=0)

    answer = program.keras_forward(model)
    if litert:
        info = program.new_info(program.Settings(), ("cat", "dog"))
        answer = program.litert_forward(program.to_litert(program.Net(model, info)))
    return rates(20 * 64, lambda: [answer(photos) for _ in range(20)], options.repeats)


def box(options, precision="auto"):
    """The shipped net by LiteRT."""
    classifier = CatDogClassifier(weights=str(program.PRETRAINED), precision=precision, quiet=True)
    classifier.ready()
    return classifier


def box_forward(options, precision="auto"):
    """The shipped net alone, all its looks at photos that are read already."""
    paths = program.list_photos(options.originals)
    photos = np.stack([photo for _, photo in program.read_photos(paths, BOX_SIZE)])
    answer = box(options, precision).predictor
    return rates(5 * len(photos), lambda: [answer(photos) for _ in range(5)], options.repeats)


def box_folder(options, precision="auto"):
    """-d with the shipped net loaded: photos a second, reading included."""
    classifier = box(options, precision)
    paths = list(program.list_photos(options.originals)) * 10
    return rates(
        len(paths), lambda: sum(1 for _ in classifier.predict_each(paths)), options.repeats
    )


def box_onnx(options):
    """The same net, float32, and the same reader with onnxruntime, all cores."""
    import onnxruntime

    target = options.work / "box.onnx"
    if not target.exists():
        program.export_net(program.load_net(program.PRETRAINED, program.Settings()), target)
    session = onnxruntime.InferenceSession(str(target))
    name, paths = session.get_inputs()[0].name, list(program.list_photos(options.originals)) * 10

    def classify():
        reads = program.read_photos(paths, BOX_SIZE)
        while chunk := [photo for _, photo in itertools.islice(reads, 16)]:
            session.run(None, {name: program.to_float(np.stack(chunk))})

    return rates(len(paths), classify, options.repeats)


def yolo(options):
    """`yolo classify` of ultralytics with its smallest net, which answers for 1,000 classes."""
    from ultralytics import YOLO

    net, paths = YOLO("yolo11n-cls.yaml"), list(program.list_photos(options.originals))

    def classify():
        return sum(1 for _ in net.predict(paths, stream=True, verbose=False, imgsz=224))

    return rates(len(paths), classify, options.repeats)


def command_line(options, before=False):
    """-d --json from the start of the program to its end, with the net that comes with it."""
    home = options.before if before else REPO
    if home is None:
        raise SystemExit("no --before")
    line = [home / "CatDogClassifier.py", "-q", "-d", links(options, 2000), "--json"]
    return [2000 / each for each in seconds(line, options.repeats)]


def ours(options, dataset, epochs=None, recipe="tutorial"):
    """Training as the program does it: [photos a second in training, seconds] of each epoch."""
    settings = {"weights": str(options.work / "ours.h5"), "recipe": recipe, "resume": False}
    settings |= {"epochs": (epochs or options.repeats) + 1, "patience": 0, "quiet": True}
    classifier = CatDogClassifier(**settings)
    program.start_tensorflow(classifier.settings)
    import keras

    class Timed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.began = time.perf_counter()

        def on_test_begin(self, logs=None):
            self.trained = time.perf_counter() - self.began

        def on_epoch_end(self, epoch, logs=None):
            found.append([count / self.trained, time.perf_counter() - self.began])

    def timed(self, *arguments, callbacks=(), **more):
        return fit(self, *arguments, callbacks=[*callbacks, Timed()], **more)

    found, fit, keras.Model.fit = [], keras.Model.fit, timed
    count = len(list(program.list_photos(options.work / dataset / "train")))
    classifier.train(options.work / dataset)
    return found[1:]


def second_start(options, dataset):
    """Seconds to the first training step, TensorFlow imported, photos read before."""
    program.start_tensorflow(program.Settings())
    found = []
    for _ in range(options.repeats):
        classifier, started = CatDogClassifier(quiet=True), time.perf_counter()
        train, _ = classifier.load_data(options.work / dataset)
        classifier.createModel().train_on_batch(*next(iter(train)))
        found.append(time.perf_counter() - started)
    return found


def tutorial(options, dataset):
    """ImageDataGenerator and fit, the same net and augmentation: [photos a second, seconds]."""
    model = new_net()
    import tensorflow as tf

    generator = tf.keras.preprocessing.image.ImageDataGenerator
    changes = {"rotation_range": 40, "horizontal_flip": True}
    ranges = ("width_shift_range", "height_shift_range", "shear_range", "zoom_range")
    augmented = generator(rescale=1 / 255, **changes, **dict.fromkeys(ranges, 0.2))

    def flow(source, split, workers):
        more = {"batch_size": BATCH, "class_mode": "binary"}
        with contextlib.redirect_stdout(sys.stderr):
            batches = source.flow_from_directory(
                options.work / dataset / split, (SIZE, SIZE), **more
            )
        batches.workers = workers
        return batches

    def epoch(workers, **size):
        train = flow(augmented, "train", workers)
        validation = flow(generator(rescale=1 / 255), "validation", workers)
        started = time.perf_counter()
        model.fit(train, validation_data=None if size else validation, verbose=0, **size)
        seconds = time.perf_counter() - started
        return [train.samples / seconds, seconds]

    epoch(1, steps_per_epoch=5)
    workers = min((1, 2, 4), key=lambda workers: epoch(workers, steps_per_epoch=20)[1])
    note(f"ImageDataGenerator is best with {workers} workers")
    return [epoch(workers) for _ in range(options.repeats)]


def torch_net():
    """The same net in PyTorch."""
    from torch import nn

    layers, channels = [], 3
    for filters in (32, 64, 128, 128, 256):
        layers += [nn.Conv2d(channels, filters, 3), nn.ReLU(), nn.MaxPool2d(2)]
        channels = filters
    head = nn.Flatten(), nn.Dropout(0.5), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 1)
    return nn.Sequential(*layers, *head)


def torch_step(net, half, layout):
    """A function that trains the net on a batch."""
    import torch

    optimizer = torch.optim.RMSprop(net.to(memory_format=layout).parameters())
    loss = torch.nn.functional.binary_cross_entropy_with_logits

    def train(photos, labels):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = net(photos.contiguous(memory_format=layout))
        loss(logits.float()[:, 0], labels.float()).backward()
        optimizer.step()

    return train


def pytorch(options, dataset):
    """PyTorch with 2 workers, its best layout and precision here: photos a second."""
    import torch
    from torchvision import datasets, transforms

    layouts = torch.contiguous_format, torch.channels_last
    photos, labels, speed = torch.rand(BATCH, 3, SIZE, SIZE), torch.zeros(BATCH), {}
    for choice in itertools.product((False, True), layouts):
        train = torch_step(torch_net(), *choice)
        speed[choice] = statistics.median(
            rates(5 * BATCH, lambda train=train: [train(photos, labels) for _ in range(5)], 3)
        )
    best = max(speed, key=speed.get)
    note(f"PyTorch is best with bfloat16 {best[0]}, {best[1]}: {speed[best]:.0f} in the bare step")
    change = [transforms.RandomAffine(40, (0.2, 0.2), (0.8, 1.2), 0.2)]
    change += [transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    change = transforms.Compose([transforms.Resize((SIZE, SIZE)), *change])
    folder = datasets.ImageFolder(options.work / dataset / "train", change)
    more = {"shuffle": True, "num_workers": 2, "persistent_workers": True}
    loader, train = (
        torch.utils.data.DataLoader(folder, BATCH, **more),
        torch_step(torch_net(), *best),
    )
    return rates(len(folder), lambda: [train(*batch) for batch in loader], options.repeats)


def folder(options, litert=False):
    """-d with the weights loaded: photos a second, reading included."""
    if not litert:
        sys.modules["ai_edge_litert"] = None
        program.find_spec = lambda name: None
    classifier = CatDogClassifier(weights=str(options.work / "net.h5"), quiet=True)
    paths = list(program.list_photos(options.originals))
    paths *= 10_000 // len(paths)
    list(classifier.predict_each(paths[:200]))
    return rates(
        len(paths), lambda: sum(1 for _ in classifier.predict_each(paths)), options.repeats
    )


def folder_loop(options):
    """The tutorials' way to classify: load_img, predict, one by one."""
    model, paths = new_net(), list(program.list_photos(options.originals))[:100]
    from keras.utils import img_to_array, load_img

    def loop():
        for path in paths:
            photo = img_to_array(load_img(path, target_size=(SIZE, SIZE))) / 255
            model.predict(photo[None], verbose=0)

    return rates(len(paths), loop, options.repeats)


def folder_pytorch(options):
    """PyTorch on a folder: 2 workers, float32, batches of 64, its better layout."""
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
            return rates(
                len(Photos.paths),
                lambda: [net(photos.contiguous(memory_format=layout)) for photos in loader],
                options.repeats,
            )

    layouts = torch.contiguous_format, torch.channels_last
    return max(map(classify, layouts), key=statistics.median)


def seconds(command, repeats, first=False):
    """How long a process takes, from its start to its end, the first run left out, or only that."""
    found, quiet = [], {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for _ in range(repeats + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *map(str, command)], **quiet, check=False)
        found.append(time.perf_counter() - started)
    return found if first else found[1:]


def import_tensorflow(options):
    """TensorFlow alone."""
    return seconds(["-c", "import tensorflow"], options.repeats)


def one_photo(options, litert=False):
    """-f with one photo."""
    call = ["-f", next(program.list_photos(options.originals)), "--weights"]
    if litert:  # with the net that comes with the program
        call = [REPO / "CatDogClassifier.py", *call, program.PRETRAINED]
        return seconds(call, options.repeats)
    call.append(str(options.work / "net.h5"))
    start = f"import sys; sys.path.insert(0, {str(REPO)!r}); import CatDogClassifier as p; "
    start += "p.find_spec = lambda name: None; "
    return seconds(["-c", f"{start}sys.exit(p.main({call!r}))"], options.repeats)


def help_and_typos(options):
    """The slowest of the calls that need no net."""
    calls = (["-h"], ["--version"], ["--epoch", "x"], ["-f"])
    found = (seconds([REPO / "CatDogClassifier.py", *call], options.repeats) for call in calls)
    return [max(map(statistics.median, found))]


def private_memory(number):
    """That of a process and of those that it started, MB; 0 when it has gone."""
    with contextlib.suppress(OSError, StopIteration):
        status = Path(f"/proc/{number}/status").read_text().splitlines()
        own = int(next(line for line in status if line.startswith("RssAnon")).split()[1]) / 1024
        started = Path(f"/proc/{number}/task/{number}/children").read_text().split()
        return own + sum(map(private_memory, started))
    return 0


def peak(command, lines=None):
    """Run the program until it has printed so many lines: the peak of its private memory, MB."""
    line = [sys.executable, REPO / "CatDogClassifier.py", *command]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process, highest, seen = subprocess.Popen(list(map(str, line)), **streams), 0, 0
    os.set_blocking(process.stdout.fileno(), False)
    while process.poll() is None and (lines is None or seen < lines):
        highest = max(highest, private_memory(process.pid))
        seen += len(process.stdout.readlines())
        time.sleep(0.02)
    process.kill()
    process.wait()
    return [highest]


def training_memory(options, dataset):
    """Memory of a training."""
    data = "--dataset", options.work / dataset, "--weights", options.work / "memory.h5"
    return peak([*data, "--epochs", 1, "--no-resume"])


def folder_memory(options, count=None):
    """Memory of -d on a folder of so many links to photos, until 500 answers are there."""
    target = links(options, count or options.files)
    return peak(["-d", target, "--weights", options.work / "net.h5"], 500)


def links(options, count):
    """A folder of so many links to photos."""
    target, photos = options.work / f"links{count}", list(program.list_photos(options.originals))
    if not target.exists():
        target.mkdir()
        for number in range(count):
            os.symlink(photos[number % len(photos)], target / f"photo{number}.jpg")
    return target


def label_parts(options, count=2000, more=()):
    """dataset/label.py on a folder of so many links to photos, parts of 500."""
    folder, found = links(options, count), []
    for number in range(options.repeats):
        answers = options.work / f"answers-{time.time()}-{number}"
        line = [REPO / "dataset" / "label.py", "-q", folder, answers, "--part", 500, *more]
        found += seconds(line, 0, first=True)
    return [count / each for each in found]


def label_nodes(options, count):
    """The same on 10,000 and so many Ray nodes, of one processor each."""
    from ray.cluster_utils import Cluster

    os.sched_setaffinity(0, range(count))  # what is started from now on has no others
    cluster = Cluster()
    with tempfile.TemporaryDirectory(prefix="ray") as place:
        for _ in range(count):  # each with a folder of its own, as machines have
            cluster.add_node(num_cpus=1, temp_dir=tempfile.mkdtemp(dir=place))
        found = label_parts(options, 10_000, ["--ray", cluster.address])
        cluster.shutdown()
    return found


def label_first(options, memory=False):
    """dataset/label.py on a million: until its first 10,000 answers are there, seconds or MB."""
    folder = links(options, options.files)
    answers, highest, started = options.work / f"answers-{time.time()}", 0, time.perf_counter()
    line = [sys.executable, REPO / "dataset" / "label.py", "-q", folder, answers]
    process = subprocess.Popen(list(map(str, line)), stdout=subprocess.DEVNULL)
    while not list(answers.glob("*.jsonl")) and process.poll() is None:
        highest = max(highest, private_memory(process.pid))
        time.sleep(0.1)
    process.kill()
    return [highest if memory else time.perf_counter() - started]


def note(text):
    """Something to say beside the figure."""
    print(f"note: {text}", file=sys.stderr)


# What the stages run on, what they are called, and what becomes of their figures.


def build(options):
    """Datasets of links: train-N, N photos and 1,000 to validate; camera, of 4 megapixels."""
    from PIL import Image

    for count, label in itertools.product((1000, 2000, 4000, 16000), ("cat", "dog")):
        for split, photos in (("train", count // 2), ("validation", 500)):
            where = options.work / f"train-{count}" / split / label
            if not where.exists():
                where.mkdir(parents=True)
                for number in range(photos):
                    name = f"{label}.{number}.jpg"
                    os.symlink(options.photos / name, where / name)
    for path, split in itertools.product(options.originals.iterdir(), ("train", "validation")):
        target = options.work / "camera" / split / path.name.split(".")[0] / path.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                image.convert("RGB").resize((2304, 1728)).save(target, quality=90)
    if not (options.work / "net.h5").exists():
        settings = {"weights": str(options.work / "net.h5"), "epochs": 1, "quiet": True}
        CatDogClassifier(**settings).train(options.work / "train-1000")


STAGES = {  # name: (what it says, function, further arguments, unit)
    "decode": ("reading originals (D)", decode, (), "photos/s"),
    "augment": ("augmenting a batch", augment, (), "photos/s"),
    "step": ("bare training step", step, (), "photos/s"),
    "forward": ("forward pass, float32 (F)", forward, (), "photos/s"),
    "forward-litert": ("forward pass, LiteRT", forward, (True,), "photos/s"),
    "ours": ("training, 16,000 photos", ours, ("train-16000",), "photos/s"),
    "best": ("the same, the recipe best", ours, ("train-16000", None, "best"), "photos/s"),
    "ours4000": ("training, 4,000 photos", ours, ("train-4000",), "photos/s"),
    "ours1000": ("training, 1,000 photos", ours, ("train-1000", 10), "photos/s"),
    "start": ("second run: to the first step", second_start, ("train-16000",), "s"),
    "tutorial": ("the tutorials' way, 16,000 photos", tutorial, ("train-16000",), "photos/s"),
    "pytorch": ("PyTorch, training, 4,000 photos", pytorch, ("train-4000",), "photos/s"),
    "camera": ("training, 4-megapixel photos", ours, ("camera",), "photos/s"),
    "camera-tutorial": ("the tutorials' way, 4 megapixels", tutorial, ("camera",), "photos/s"),
    "folder": ("-d, 10,000 photos", folder, (), "photos/s"),
    "folder-litert": ("-d, 10,000 photos, LiteRT", folder, (True,), "photos/s"),
    "box-decode": ("reading for the shipped net (D)", decode, (BOX_SIZE,), "photos/s"),
    "box-forward": ("its forward pass, 8 bits (F)", box_forward, (), "photos/s"),
    "box-forward32": ("the same, float32", box_forward, ("float32",), "photos/s"),
    "box": ("-d, 2,000 photos, the shipped net", box_folder, (), "photos/s"),
    "box32": ("the same, float32", box_folder, ("float32",), "photos/s"),
    "box-onnx": ("the same, onnxruntime, float32", box_onnx, (), "photos/s"),
    "yolo": ("ultralytics, yolo11n-cls", yolo, (), "photos/s"),
    "command": ("-d, 2,000 photos, start included", command_line, (), "photos/s"),
    "label": ("dataset/label.py on the same", label_parts, (), "photos/s"),
    "label-node": ("10,000 on a Ray node of one core", label_nodes, (1,), "photos/s"),
    "label-nodes": ("the same on two such nodes", label_nodes, (2,), "photos/s"),
    "label-first": ("label.py, a million: first part", label_first, (), "s"),
    "label-memory": ("peak memory until then", label_first, (True,), "MB"),
    "command-before": ("the same, the version before", command_line, (True,), "photos/s"),
    "folder-loop": ("load_img and predict, one by one", folder_loop, (), "photos/s"),
    "folder-pytorch": ("PyTorch, folder, float32", folder_pytorch, (), "photos/s"),
    "import": ("import tensorflow", import_tensorflow, (), "s"),
    "photo": ("-f, one photo", one_photo, (), "s"),
    "photo-litert": ("-f, one photo, LiteRT", one_photo, (True,), "s"),
    "help": ("-h, --version, typos: the slowest", help_and_typos, (), "s"),
    "memory2000": ("peak memory, training on 2,000", training_memory, ("train-2000",), "MB"),
    "memory16000": ("peak memory, training on 16,000", training_memory, ("train-16000",), "MB"),
    "files1000": ("peak memory, -d on 1,000 files", folder_memory, (1000,), "MB"),
    "files": ("peak memory, -d on a million", folder_memory, (), "MB"),
}


def measure(name, options):
    """The figures of a stage, {"median", "second"}; {} when it failed, for want of a library."""
    title, _, _, unit = STAGES[name]
    line = [sys.executable, __file__, options.photos, options.originals, "--work", options.work]
    line += ["--repeats", options.repeats, "--files", options.files, "--stage", name]
    line += ["--before", options.before] if options.before else []
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines() or ["no reason"]
    if done.returncode:
        print(f"{title:36} left out: {said[-1]}", flush=True)
        return {}
    found = json.loads(done.stdout.splitlines()[-1])  # of an epoch: two figures
    firsts, *others = zip(
        *(each if isinstance(each, list) else [each] for each in found), strict=True
    )
    figure, digits = {"median": statistics.median(firsts)}, 2 if unit == "s" else 0
    if others:
        figure["second"] = statistics.median(others[0])
    text = f"{title:36} {figure['median']:8.{digits}f} {unit:9}"
    text += f"[{min(firsts):.{digits}f} .. {max(firsts):.{digits}f}]"
    text += f"  {figure['second']:.1f} s" if others else ""
    notes = (row.partition(": ")[2] for row in said if row.startswith("note: "))
    print(text, *(f"# {note}" for note in notes), sep="  ", flush=True)
    return figure


# What the figures promise: text, formula on their medians (or, with _s, their seconds), goal.
RATIOS = [
    ("training against the bare step", "ours / step", ">= 0.85"),
    ("minutes of 30 epochs, recipe best, 16,000 photos", "best_s / 2", "<= 25"),
    ("seconds an epoch, that recipe against the tutorials'", "best_s / ours_s", ""),
    ("seconds an epoch, tutorials' way against ours", "tutorial_s / ours_s", ">= 2.2"),
    ("the same, 4-megapixel photos", "camera_tutorial_s / camera_s", ">= 3"),
    ("training against PyTorch", "ours / pytorch", ">= 2"),
    ("1,000 photos against 16,000, photos/s", "ours1000 / ours", "0.9 .. 1.1"),
    ("4,000 photos against 16,000, photos/s", "ours4000 / ours", "0.9 .. 1.1"),
    ("-d against one by one", "folder / folder_loop", ">= 20"),
    ("-d against 1/(1/D + 1/F)", "folder * (1 / decode + 1 / forward)", ">= 0.85"),
    ("-d against PyTorch", "folder / folder_pytorch", ">= 2"),
    ("-d with LiteRT against without", "folder_litert / folder", ""),
    ("-d with the shipped net against the version before", "command / command_before", ">= 3"),
    ("label.py against -d, time", "command / label", "<= 1.1"),
    ("two nodes of one core against one", "label_nodes / label_node", ">= 1.8"),
    ("-d with it against 1/(1/D + 1/F)", "box * (1 / box_decode + 1 / box_forward)", ">= 0.9"),
    ("-d with it, 8 bits against float32", "box / box32", ""),
    ("-d with it against onnxruntime, float32", "box / box_onnx", ">= 1.5"),
    ("-f against import tensorflow", "photo / import_", "<= 1.3"),
    ("-f with LiteRT against import tensorflow", "photo_litert / import_", "<= 0.2"),
    ("MB more for 16,000 than for 2,000 photos", "memory16000 - memory2000", "<= 250"),
    ("MB more for a million files than for 1,000", "files - files1000", "<= 250"),
]


def print_ratios(figures):
    """Those of which all that is needed was measured."""
    known = {}
    for name, figure in figures.items():
        variable = name.replace("-", "_") + ("_" if name == "import" else "")
        known |= {variable: figure.get("median"), f"{variable}_s": figure.get("second")}
    for text, formula, goal in RATIOS:
        with contextlib.suppress(NameError, TypeError):
            value = eval(formula, {"max": max}, known)  # noqa: S307 (they stand above)
            print(f"{text:52} {value:8.2f}   {goal}")


def print_table(figures, machine):
    """The table of the README; what was not measured is left empty."""

    def cell(*names, which="median", form="{:,.0f}"):
        found = [figures[name][which] for name in names if which in figures.get(name, {})]
        texts = [form.format(figure) for figure in found]
        return texts[0] + (f" (with LiteRT {texts[1]})" if texts[1:] else "") if texts else ""

    epoch = {"which": "second", "form": "{:.1f} s"}
    camera = cell("camera", **epoch), cell("camera-tutorial", **epoch), ""
    one = cell("photo", "photo-litert", form="{:.1f} s"), "", ""
    folders = cell("folder", "folder-litert"), cell("folder-loop"), cell("folder-pytorch")
    rows = [
        (machine, "this program", "the tutorials' way", "PyTorch"),
        ("-",) * 4,
        ("training, photos a second", cell("ours"), cell("tutorial"), cell("pytorch")),
        ("an epoch: 16,000 photos", cell("ours", **epoch), cell("tutorial", **epoch), ""),
        ("an epoch: 200 photos of 4 megapixels", *camera),
        ("classifying a folder, photos a second", *folders),
        ("one photo, from the start of the program", *one),
    ]
    for row in rows:
        print(f"| {' | '.join(row)} |")


def main():
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("photos", type=Path)
    parser.add_argument("originals", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--files", type=int, default=1_000_000)
    work = Path(tempfile.gettempdir(), "catdog-benchmark")
    parser.add_argument("--work", type=Path, default=work)
    parser.add_argument("--before", type=lambda path: Path(path).resolve())
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("photos", "originals", "work"):  # links are made of them
        setattr(options, name, getattr(options, name).resolve())
    os.environ["XDG_CACHE_HOME"] = str(options.work / "cache")
    if options.stage:
        _, function, more, _ = STAGES[options.stage]
        print(json.dumps(function(options, *more)))
        return
    build(options)
    names = ("tensorflow", "keras", "numpy", "pillow")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    machine = f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"
    with contextlib.suppress(OSError, IndexError):  # Linux knows more
        about = Path("/proc/cpuinfo").read_text().partition("model name")[2]
        machine = f"{os.cpu_count()} cores, {about.split(':')[1].splitlines()[0].strip()}"
    print(f"{machine}; Python {platform.python_version()}, {versions}", flush=True)
    figures = {name: measure(name, options) for name in options.only}
    print()
    print_ratios(figures)
    print()
    print_table(figures, machine)


if __name__ == "__main__":
    main()
