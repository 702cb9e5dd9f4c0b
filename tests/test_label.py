"""dataset/label.py: every photo is answered exactly once, whatever dies on the way."""

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import PROGRAM, REPO, colour_net, paint, posix, python, refusal, slow

TOOL = REPO / "dataset" / "label.py"
# A photo whose file begins with EXEC does the rest of it, as if a library had a fault.
TRAP = """import PIL.Image
whole = PIL.Image.open
def trap(file, **more):
    if file.read(4) == b"EXEC":
        exec(file.read())
    file.seek(0)
    return whole(file, **more)
PIL.Image.open = trap
"""
DEADLY = b"EXECimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def holiday(tmp_path):
    """A folder of 26 photos in two folders, one of which is broken, another one in no ASCII."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    for number in range(24):
        paint(folder / "ab"[number % 2] / f"{number}.png", int(rng.integers(-120, 120)))
    paint(folder / "a" / "猫 犬.png", 90)
    (folder / "b" / "broken.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture
def trap(tmp_path):
    """The environment of a process that falls for TRAP."""
    (tmp_path / "sitecustomize.py").write_text(TRAP)
    return {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(REPO)))}


@pytest.fixture
def label(colours, tmp_path):
    """label(SOURCE, ANSWERS, ...) -> (exit code, stdout, stderr), in parts of four photos."""

    def call(*arguments, weights=colours, part=4, env=None):
        line = [*arguments, "--weights", weights, "--part", part]
        done = python(TOOL, *line, text=True, env=env or {}, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    return call


def start(source, weights, *more):
    """The tool in a process that is not waited for, in parts of three photos."""
    line = [sys.executable, TOOL, source, "answers", "--weights", weights, "--part", 3, *more]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen([*map(str, line)], cwd=source.parent, **streams)


def rows(folder):
    """The answers in all parts, in their order."""
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in open(path)]


def expected(source, weights):
    """What -d --json answers; Keras' last digits depend on how many photos it sees at a time."""
    done = python(PROGRAM, "-q", "-d", source, "--weights", weights, "--json", text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    if find_spec("ai_edge_litert"):
        return found
    for row in (row for row in found if not row["error"]):
        row["confidence"] = pytest.approx(row["confidence"], abs=1e-6)
        row["probabilities"] = pytest.approx(row["probabilities"], abs=1e-6)
    return found


def test_the_answers_are_those_of_the_program_row_by_row(label, holiday, colours, tmp_path):
    code, out, err = label(holiday, "answers")
    wanted = expected(holiday, colours)
    counts = {name: sum(row["verdict"] == name for row in wanted) for name in ("cat", "dog")}
    summary = f"26 files: 1 unreadable, {counts['cat']} cat, {counts['dog']} dog\n"
    assert (code, out, err, rows(tmp_path / "answers")) == (1, summary, "", wanted)
    assert len(list((tmp_path / "answers").glob("*.jsonl"))) == 7


def test_a_part_that_is_missing_is_all_that_is_done_again(label, holiday, tmp_path):
    label(holiday, "answers")
    first, missing = (tmp_path / "answers" / f"00000{n}.jsonl" for n in (0, 3))
    before, other = missing.read_bytes(), b'{"verdict": "cat"}\n' * 4
    missing.unlink()
    first.write_bytes(other)  # its photos are not looked at
    assert label(holiday, "answers")[0] == 1
    assert (missing.read_bytes(), first.read_bytes()) == (before, other)
    for damage in (b"", other[:30], b"[]\n" * 4):
        first.write_bytes(damage)
        _, out, err = label(holiday, "answers")
        assert out.startswith("22 files") and "000000.jsonl is damaged. Remove it and start" in err
    first.rename(first.with_suffix(".list"))
    assert "000000.list: it is damaged" in label(holiday, "answers")[2]


def test_a_list_says_which_photos_and_in_which_order(label, holiday, tmp_path):
    names = ["photos/b/3.png", "photos/none.jpg", str(holiday / "a" / "猫 犬.png")]
    (tmp_path / "list.txt").write_text("\ufeff" + "\r\n".join(names) + "\n\n")
    code, out, err = label("list.txt", "answers")
    assert (code, out.split(",")[0], err) == (1, "3 files: 1 unreadable", "")
    found = rows(tmp_path / "answers")
    assert [row["path"] for row in found] == [str(tmp_path / name) for name in names]
    assert found[1]["error"] == "cannot be read: No such file or directory"


def test_answers_of_another_net_folder_or_setting_are_refused(label, holiday, tmp_path):
    label(holiday, "answers")
    before = {path.name: path.read_bytes() for path in (tmp_path / "answers").iterdir()}
    other = colour_net(tmp_path / "other.h5", temperature=2.0)
    for where, how in ((holiday, {"weights": other}), (holiday / "a", {}), (holiday, {"part": 5})):
        assert "holds the answers for another" in refusal(label(where, "answers", **how))
    assert "another unsure: None" in label(holiday, "answers", "--unsure", 0.1)[2]
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "answers").iterdir()}
    shutil.copytree(holiday / "a", tmp_path / "mine")
    assert label(holiday, holiday / "new")[0] == 2  # it would be labelled too
    for folder, why in (("mine", "holds something else"), ("mine/0.png", "cannot use")):
        assert why in refusal(label(holiday, folder))


def test_what_cannot_be_asked_is_one_line_and_claims_no_folder(label, holiday, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for line, code, why in (
        (["empty"], 1, "holds no photos"),
        ([holiday / "a" / "0.png"], 2, "no list of paths"),
        (["loop"], 1, "there is no loop"),
        ([holiday, "--ray", ""], 2, "--ray needs"),
    ):
        assert why in refusal(label(line[0], "answers", *line[1:]), code)
    if find_spec("ray"):
        err = refusal(label(holiday, "answers", "--ray", "127.0.0.1:1"))
        assert "cannot use a Ray cluster at 127.0.0.1:1" in err
    assert "a folder here" in refusal(label(holiday, "s3://pets"), 2)
    assert "--part must be 1 to" in refusal(label(holiday, "answers", part=10**20), 2)
    assert "no weights at" in refusal(label(holiday, "answers", weights="none.h5"))
    assert label(holiday, "answers")[1].startswith("26 files")


def test_a_listing_that_broke_off_is_done_anew(label, holiday, trap, tmp_path):
    gone = """import os; scan = os.scandir
def goes(path="."):
    if str(path).endswith("photos/b") and not os.path.exists("stay"):
        os.rename("photos", "away")
    return scan(path)
os.scandir = goes
"""
    (tmp_path / "sitecustomize.py").write_text(gone)
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / ".mine.list").touch()  # nobody's business
    assert "went away while it was listed" in refusal(label(holiday, "answers", env=trap))
    (tmp_path / "away").rename(holiday)
    (tmp_path / "stay").touch()
    assert label(holiday, "answers", env=trap)[1].startswith("26 files: 1 unreadable")
    assert (tmp_path / "answers" / ".mine.list").exists()


def test_photos_that_go_away_during_a_run_are_not_called_unreadable(label, holiday, trap, tmp_path):
    act = b"EXECimport os\nif not os.path.exists('stay'): os.rename('photos', 'away')"
    (holiday / "b" / "11.png").write_bytes(act)
    code, out, err = label(holiday, "answers", part=30, env=trap)
    assert (code, out, err.count("is not there on")) == (1, "0 files: none answered\n", 1)
    (tmp_path / "away").rename(holiday)
    (tmp_path / "stay").touch()
    assert label(holiday, "answers", part=30, env=trap)[1].startswith("26 files: 2 unreadable")


def test_all_parts_are_answered_by_the_same_net(label, holiday, trap, colours, tmp_path):
    other, mine = colour_net(tmp_path / "other.h5", temperature=2.0), tmp_path / "mine.h5"
    shutil.copy(colours, mine)
    act = f"EXECimport os, shutil; shutil.copy({str(other)!r}, {str(mine)!r}); os._exit(1)"
    (holiday / "a" / "8.png").write_text(act)
    assert "ended the process 3 times" in label(holiday, "answers", weights=mine, env=trap)[2]
    wanted = {row["path"]: row for row in expected(holiday, colours)}
    found = rows(tmp_path / "answers")
    assert (len(found), all(row == wanted[row["path"]] for row in found)) == (22, True)
    assert "another net" in refusal(label(holiday, "answers", weights=mine))


def test_answers_of_another_engine_are_refused(label, holiday, trap, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="pip install ai-edge-litert")
    label(holiday, "answers")
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['ai_edge_litert'] = None")
    assert "another litert: True" in refusal(label(holiday, "answers", env=trap))


def test_oddities_of_photos_are_no_lines(label, holiday):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\3\0\0\0\1"  # Pillow warns of it
    Image.new("RGB", (8, 8)).save(holiday / "a" / "odd.jpg", exif=exif)
    code, out, err = label(holiday, "answers")
    assert (code, out.split(",")[0], err) == (1, "27 files: 1 unreadable", "")


@posix
def test_a_photo_that_kills_ends_its_part_only_and_is_named(label, holiday, trap):
    (holiday / "a" / "2.png").write_bytes(DEADLY)
    code, out, err = label(holiday, "answers", env=trap)
    assert "000000.list: one of these photos ended the process 3 times\n" in err
    assert (code, out.split(":")[0]) == (1, "22 files")
    (holiday / "a" / "2.png").write_bytes(b"no photo")  # it is mended: only that part is done
    code, out, err = label(holiday, "answers", env=trap)
    assert (code, out.split(",")[0], err) == (1, "26 files: 2 unreadable", "")


@pytest.mark.skipif(shutil.which("pgrep") is None, reason="pgrep finds the helpers")
@pytest.mark.parametrize("victims", ["driver", "worker"])
@pytest.mark.parametrize("times", [2, *slow(20)])
def test_after_kills_nothing_is_missing_or_twice(victims, times, label, holiday, colours, tmp_path):
    rng = random.Random(0)
    for _ in range(times):
        process = start(holiday, colours)
        time.sleep(rng.uniform(0.3, 1.5))
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
        helpers = found.stdout.split() if victims == "worker" else []
        with contextlib.suppress(ProcessLookupError):
            os.kill(int([process.pid, *helpers][-1]), signal.SIGKILL)
        process.communicate()
        for path in list((tmp_path / "answers").glob("*.jsonl"))[1:]:
            path.unlink()  # so that there is always something to be killed in
    assert label(holiday, "answers", part=3)[0] == 1
    assert rows(tmp_path / "answers") == expected(holiday, colours)
    assert not list((tmp_path / "answers").glob("*.tmp"))


def test_what_is_not_installed_is_named(label, holiday, trap):
    for source, flags, name in ((holiday, ["--ray", "auto"], "ray"), ("s3://a", [], "fsspec")):
        hidden = holiday.parent / "sitecustomize.py"
        hidden.write_text(f"import sys; sys.modules[{name!r}] = None")
        err = refusal(label(source, "answers", *flags, env=trap))
        assert f"{name} is not installed. Run: pip install {name}" in err


# An object store: a local server of the S3 API. ---------------------------------------------------


@pytest.fixture
def bucket(holiday):
    """s3://pets with the photos of `holiday`, on a server of its own; what reaches it."""
    pytest.importorskip("s3fs", reason="pip install s3fs")
    server = pytest.importorskip("moto.server", reason='pip install "moto[server]"')
    import boto3

    server = server.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    env = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a"}
    env |= {"AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    more = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    store = boto3.client("s3", endpoint_url=env["AWS_ENDPOINT_URL"], **more)
    store.create_bucket(Bucket="pets")
    for path in sorted(holiday.rglob("*.*")):
        store.upload_file(str(path), "pets", str(path.relative_to(holiday)))
    for name in ("a/", "a/.DS_Store"):
        store.put_object(Bucket="pets", Key=name, Body=b"")
    store.upload_file(str(holiday / "a" / "0.png"), "pets", "more/a::b.png")
    yield env
    server.stop()


def test_a_store_that_does_not_answer_is_no_fault_of_its_photos(bucket, label, tmp_path):
    away = {**bucket, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    code, out, err = label("s3://pets", "answers", env=away)
    assert (code, out, "cannot ask for s3://pets" in err) == (1, "", True)
    assert "cannot ask for s3://none" in label("s3://none", "answers", env=bucket)[2]
    (tmp_path / "list.txt").write_text("s3://pets/a/0.png\n")
    code, out, err = label("list.txt", "answers2", env=away)
    assert (code, out) == (1, "0 files: none answered\n")
    assert "000000.list: cannot ask for s3://pets/a/0.png" in err
    assert label("list.txt", "answers2", env=bucket)[0] == 0  # nothing was answered before


def test_photos_in_an_object_store_are_answered_as_files(bucket, label, holiday, colours, tmp_path):
    wanted = {row.pop("path"): row for row in expected(holiday, colours)}
    wanted = {f"s3://pets/{Path(path).relative_to(holiday)}": row for path, row in wanted.items()}
    wanted["s3://pets/more/a::b.png"] = wanted["s3://pets/a/0.png"]
    code, out, err = label("s3://pets", "answers", env=bucket)
    assert (code, err) == (1, "")
    assert {row.pop("path"): row for row in rows(tmp_path / "answers")} == wanted


def test_an_object_that_cannot_be_had_is_a_row(bucket, label, tmp_path, monkeypatch):
    responses = pytest.importorskip("moto.s3.responses").S3Response
    usual = responses.key_response

    def answer(self, request, url, headers):
        if "/b/1.png" in url:
            return 403, {}, ""
        time.sleep(0.5)  # a slow store
        return usual(self, request, url, headers)

    monkeypatch.setattr(responses, "key_response", answer)
    bad = ["none://a/b.png", *map("s3://pets{}".format, ("/none.png", "/b/1.png", "", "/\udcff"))]
    (tmp_path / "list.txt").write_bytes(os.fsencode("\n".join(["s3://pets/a/0.png", *bad])))
    assert label("list.txt", "answers", part=9, env=bucket)[::2] == (1, "")
    there, *others = rows(tmp_path / "answers")
    assert (there["error"], [row["path"] for row in others]) == (None, bad)
    assert all(row["error"] for row in others)
    (tmp_path / "refused.txt").write_text("s3://pets/b/1.png\n")  # all of them: who may ask?
    assert "cannot ask for s3://pets/b/1.png" in label("refused.txt", "refused", env=bucket)[2]


# A real cluster of two nodes. ---------------------------------------------------------------------


@pytest.fixture
def cluster(trap, monkeypatch):
    """A Ray cluster of two nodes with one processor each, and a folder each, as machines have."""
    utils = pytest.importorskip("ray.cluster_utils", reason="pip install ray")
    monkeypatch.setenv("PYTHONPATH", trap["PYTHONPATH"])  # of the workers
    with tempfile.TemporaryDirectory(prefix="ray") as place:  # a short path: sockets lie there
        monkeypatch.setenv("RAY_TMPDIR", place)
        os.mkdir(os.path.join(place, "ray"))  # where Ray keeps the address of a cluster
        own, add = functools.partial(tempfile.mkdtemp, dir=place), utils.Cluster.add_node
        one = lambda self: add(self, num_cpus=1, temp_dir=own())  # noqa: E731
        monkeypatch.setattr(utils.Cluster, "add_node", one)
        nodes = utils.Cluster()
        nodes.add_node(), nodes.add_node()
        yield nodes
        nodes.shutdown()


@pytest.mark.parametrize("times", [1, *slow(20)])
def test_answers_are_the_same_if_workers_and_nodes_die(times, cluster, holiday, colours, tmp_path):
    rng, wanted = random.Random(0), expected(holiday, colours)
    lasting = TRAP.replace("file.seek", "__import__('time').sleep(0.4), file.seek")
    (tmp_path / "sitecustomize.py").write_text(lasting)  # so that there is always work to kill
    for _ in range(times):
        shutil.rmtree(tmp_path / "answers", ignore_errors=True)
        driver = start(holiday, colours, "--ray", cluster.address)
        node, deadline = cluster.add_node(), time.monotonic() + 60
        while not list((tmp_path / "answers").glob("*.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(rng.uniform(0, 1))
        raylets = [each.all_processes["raylet"][0] for each in cluster.list_all_nodes()]
        own = ",".join(str(raylet.process.pid) for raylet in raylets)
        subprocess.run(["pkill", "-9", "-P", own, "-f", "ray::(label|IDLE)"], check=True)
        cluster.remove_node(node, allow_graceful=False)
        out, _ = driver.communicate(timeout=120)
        assert (driver.returncode, out.split(",")[0]) == (1, "26 files: 1 unreadable")
        assert rows(tmp_path / "answers") == wanted


def test_a_cluster_outlives_driver_and_deadly_photo(cluster, label, holiday, colours, tmp_path):
    seen = tmp_path / "seen"
    (holiday / "a" / "2.png").write_bytes(DEADLY)
    share = f"EXECimport os; open({str(seen)!r}, 'a').write(f'{{os.cpu_count()}} ')"
    (holiday / "b" / "23.png").write_text(share)
    driver = start(holiday, colours, "--ray", cluster.address)
    while driver.poll() is None and not list((tmp_path / "answers").glob("*.jsonl")):
        time.sleep(0.1)
    driver.kill()
    driver.communicate()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "answers").glob("*.jsonl")}
    code, out, err = label(holiday, "answers", "--ray", cluster.address, part=3)
    assert (code, out.split(",")[0]) == (1, "23 files: 2 unreadable")
    assert "000000.list: one of these photos ended the process 3 times\n" in err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert set(seen.read_text().split()) == {"1"}
    wanted = {row["path"]: row for row in expected(holiday, colours)}
    assert all(row == wanted[row["path"]] for row in rows(tmp_path / "answers"))


AWAY = "os.stat = os.lstat = lambda p, was=os.stat, **k: was(str(p).replace('photos', '-'), **k)"


@pytest.mark.parametrize(
    ("lack", "said"),
    [("sys.modules['PIL'] = None", "PIL.Image is not installed"), (AWAY, "is not there on")],
)
def test_what_a_node_does_not_have_is_said(lack, said, cluster, label, holiday, tmp_path):
    worker = f"import os, sys\nif 'default_worker' in ''.join(sys.orig_argv): exec({lack!r})\n"
    (tmp_path / "sitecustomize.py").write_text(worker)
    code, out, err = label(holiday, "answers", "--ray", cluster.address)
    assert (code, out) == (1, "0 files: none answered\n")
    assert err.count("a node says: ") == err.count(said) == 7
