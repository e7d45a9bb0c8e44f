"""Event data: frames as SpikingJelly counts them, from its files, and from small files in the formats of the data sets that are handed out."""

import concurrent.futures
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import cifar10_dvs, digit, drawn, gesture, n_mnist, of_arrays

import snnfast
from snnfast.data import events


def spikingjelly():
    """SpikingJelly's module that makes frames, without its package of data sets, which asks for torchaudio."""
    snnfast.data.declare_operators()
    folder = Path(importlib.util.find_spec("spikingjelly").origin).parent
    spec = importlib.util.spec_from_file_location("spikingjelly.datasets.utils", folder / "datasets" / "utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


jelly = spikingjelly()


def of_jelly(given, T, size):
    return jelly.integrate_events_by_fixed_frames_number(given, "number", T, size, size)


@pytest.mark.parametrize("T", [1, 4, 7])
@pytest.mark.parametrize("N", [0, 1, 5, 28, 1003])
def test_frames_are_those_of_spikingjelly(N, T):
    given = drawn(N, 12, N)
    frames = events.frames_of(given, T, 12)
    assert frames.dtype == np.uint8 and np.array_equal(frames, of_jelly(given, T, 12)) and frames.sum() == N


def test_counts_beyond_a_byte():
    many = {key: np.zeros(1000, int) for key in "txyp"}
    frames = events.frames_of(many, 2, 4)
    assert frames.dtype == np.float32 and frames[:, 0, 0, 0].tolist() == [500, 500]


# ---- small data sets, as they are handed out


def test_n_mnist(tmp_path):
    n_mnist(tmp_path)
    data = snnfast.data.load("n-mnist", tmp_path)
    assert (len(data.train), len(data.test), data.classes, data.image_size, data.channels, data.frames) == (20, 20, 10, 34, 2, 10)
    x, y = data.test[13]
    assert y == 6 and x.dtype == torch.float32 and np.array_equal(x, of_jelly(digit(6, 1), 10, 34))
    assert data.facts == dict(data="n-mnist", image_size=34, preprocessing="counts", frames=10)
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.npz")}
    again = snnfast.data.load("n-mnist", tmp_path, train=False)
    assert (
        again.train is None and torch.equal(again.test[13][0], x) and {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.npz")} == before
    )
    assert snnfast.data.load("n-mnist", tmp_path, frames=3).test[0][0].shape == (3, 2, 34, 34)


def test_dvs_gesture_and_the_order_of_its_classes(tmp_path):
    gesture(tmp_path)
    data = snnfast.data.load("dvs-gesture", tmp_path, frames=4)
    assert len(data.train) == len(data.test) == 11 and data.image_size == 128
    for i, name in enumerate(["0", "1", "10", "2", "3"]):  # as text
        x, y = data.test[i]
        assert y == i and np.array_equal(x, of_jelly(drawn(200, seed=int(name)), 4, 128))


def test_cifar10_dvs_and_its_parts(tmp_path):
    cifar10_dvs(tmp_path)
    data = snnfast.data.load("cifar10-dvs", tmp_path, frames=2)
    assert len(data.train) == 90 and len(data.test) == 10 and data.test.targets == list(range(10))
    assert data.test.files[3].name == "cat_cifar10_cat_9.npz"
    assert np.array_equal(data.test[3][0], of_jelly(drawn(60, seed=9), 2, 128))


def test_files_of_spikingjelly_both_ways(tmp_path):
    of_arrays(tmp_path)
    data = snnfast.data.load("dvs-gesture", tmp_path, frames=5)
    source, theirs = tmp_path / "events_np/test/10/user01_10.npz", tmp_path / "theirs"
    theirs.mkdir()
    jelly.integrate_events_file_to_frames_file_by_fixed_frames_number(np.load, str(source), str(theirs), "number", 5, 128, 128, False)
    own = tmp_path / "frames_number_5_split_by_number/test/10/user01_10.npz"
    expected = np.load(theirs / source.name)["frames"]
    assert np.array_equal(np.load(own)["frames"], expected)
    own.write_bytes((theirs / source.name).read_bytes())  # frames that SpikingJelly wrote
    assert np.array_equal(data.test[5][0], expected) and data.test[5][1] == 2


# ---- refusals


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(
        ValueError, match="has no frames or events of n-mnist: looked for frames_number_<T>_split_by_number, events_np and NMNIST"
    ):
        snnfast.data.load("n-mnist", tmp_path)
    with pytest.raises(ValueError, match="needs a folder"):
        snnfast.data.load("n-mnist")
    with pytest.raises(ValueError, match="frames are of event data .*, and digits has images"):
        snnfast.data.load("digits", frames=4)
    with pytest.raises(ValueError, match="frames of events are counts, without a preprocessing; got preprocessing 'half'"):
        snnfast.data.load("n-mnist", tmp_path, preprocessing="half")
    (tmp_path / "NMNIST" / "Train").mkdir(parents=True)
    with pytest.raises(ValueError, match="NMNIST/Train holds no recordings of NMNIST; --download"):
        snnfast.data.load("n-mnist", tmp_path)
    for frames, message in ((0, "frames must be >= 1"), (5000, "frames must be at most 1024"), (2.5, "frames must be an int")):
        with pytest.raises((ValueError, TypeError), match=message):
            snnfast.data.load("n-mnist", tmp_path, frames=frames)
    of_arrays(tmp_path / "half", parts=("train",))
    with pytest.raises(ValueError, match="events_np/test has the folders none; expected 0, 1, 10, 2"):
        snnfast.data.load("dvs-gesture", tmp_path / "half")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("frames")]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"PK\x03\x04 half of an archive", "cannot be read"),
        (dict(x=np.zeros(3), y=np.zeros(3)), "has no p"),
        (dict(x=np.zeros(3), y=np.zeros(2), p=np.zeros(3)), "has 3 x, 2 y and 3 p"),
        (dict(x=np.full(3, 128), y=np.zeros(3), p=np.zeros(3)), "has events at x = 128 to 128, and the camera has 0 to 127"),
        (dict(x=np.zeros(3), y=np.zeros(3), p=np.full(3, -1)), "has events at p = -1 to -1"),
        (dict(x=np.full(3, np.nan), y=np.zeros(3), p=np.zeros(3)), "has x of dtype float64 that are no whole numbers"),
        (dict(x=np.array([object()]), y=np.zeros(1), p=np.zeros(1)), "cannot be read"),  # pickled: never loaded
    ],
)
def test_a_bad_recording_leaves_nothing_behind(tmp_path, content, message):
    of_arrays(tmp_path)
    bad = tmp_path / "events_np/train/3/user00_3.npz"
    bad.write_bytes(content) if isinstance(content, bytes) else np.savez(bad, **content)
    with pytest.raises(ValueError, match=f"recording .*user00_3.npz: .*{message}") as error:
        snnfast.data.load("dvs-gesture", tmp_path)
    assert "\n" not in str(error.value) and [p.name for p in tmp_path.iterdir()] == ["events_np"]
    assert threading.active_count() < 10


def test_the_test_set_alone(tmp_path):
    n_mnist(tmp_path, 1)
    shutil.rmtree(tmp_path / "NMNIST/Train")
    assert len(snnfast.data.load("n-mnist", tmp_path, train=False).test) == 10
    with pytest.raises(ValueError, match="NMNIST/Train holds no recordings"):
        snnfast.data.load("n-mnist", tmp_path)
    n_mnist(tmp_path, 1)
    assert len(snnfast.data.load("n-mnist", tmp_path).train) == 10


def test_a_class_that_is_missing_may_come_later(tmp_path):
    n_mnist(tmp_path, 1)
    (tmp_path / "NMNIST/Train/9").rename(tmp_path / "nine")
    with pytest.raises(ValueError, match="the recordings for .*train has the folders 0, 1, 2, 3, 4, 5, 6, 7, 8; expected 0"):
        snnfast.data.load("n-mnist", tmp_path)
    (tmp_path / "nine").rename(tmp_path / "NMNIST/Train/9")
    assert len(snnfast.data.load("n-mnist", tmp_path).train) == 10


def test_sets_side_by_side(tmp_path):
    n_mnist(tmp_path, 1)
    gesture(tmp_path)
    cifar10_dvs(tmp_path)
    for _ in range(2):
        found = [len(snnfast.data.load(name, tmp_path, frames=4).test) for name in ("n-mnist", "dvs-gesture", "cifar10-dvs")]
        assert found == [10, 11, 10]


def test_two_at_once(tmp_path):
    n_mnist(tmp_path, 8)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        sets = list(pool.map(lambda _: snnfast.data.load("n-mnist", tmp_path), range(2)))
    assert [len(data.train) for data in sets] == [80, 80] and not list(tmp_path.rglob("*.part"))


def test_what_a_killed_process_left_is_removed(tmp_path):
    n_mnist(tmp_path, 1)
    snnfast.data.load("n-mnist", tmp_path, train=False)
    folder = tmp_path / "NMNIST/frames_number_10_split_by_number"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, other = (folder / f"train.{socket.gethostname()}-{pid}-x.part" for pid in (dead.pid, os.getpid()))
    left.mkdir()
    other.mkdir()
    snnfast.data.load("n-mnist", tmp_path)
    assert not left.exists() and other.exists()


@pytest.mark.parametrize(
    "stray, message",
    [
        ("CIFAR10DVS/other/x.aedat4", "CIFAR10DVS holds files that CIFAR10DVS has not: 'other'"),
        ("NMNIST/Test/other/readme.bin", "NMNIST holds files that NMNIST has not"),
        ("NMNIST/Test/x0/00000.bin", "x0/00000.bin lies in a folder that is no class"),
        ("DVSGesture/ibmGestureTest/user01_led/labels.npy", "DVSGesture holds files that DVSGesture has not"),
    ],
)
def test_stray_files(tmp_path, stray, message):
    {"C": cifar10_dvs, "N": n_mnist, "D": gesture}[stray[0]](tmp_path)
    (tmp_path / stray).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / stray).write_bytes(b"")
    with pytest.raises(ValueError, match=message) as error:
        snnfast.data.load({"C": "cifar10-dvs", "N": "n-mnist", "D": "dvs-gesture"}[stray[0]], tmp_path, frames=2)
    assert "\n" not in str(error.value)


def test_half_of_the_frames_are_refused(tmp_path):
    """As a stopped run of SpikingJelly leaves them."""
    of_arrays(tmp_path)
    files = snnfast.data.load("dvs-gesture", tmp_path, frames=3).train.files
    files[0].unlink()
    with pytest.raises(ValueError, match="train lacks 1 of 22 recordings of .*events_np/train: remove it"):
        snnfast.data.load("dvs-gesture", tmp_path, frames=3)
    shutil.rmtree(tmp_path / "events_np")
    files[1].unlink()
    with pytest.raises(ValueError, match="train/0 holds no .npz files"):
        snnfast.data.load("dvs-gesture", tmp_path, frames=3)


def test_frames_of_another_set(tmp_path):
    of_arrays(tmp_path)
    snnfast.data.load("dvs-gesture", tmp_path, frames=3)
    with pytest.raises(ValueError, match="has the folders 0, 1, 10, 2.*expected 0, 1, 2"):
        snnfast.data.load("n-mnist", tmp_path, frames=3)


def test_too_few_recordings_for_a_test_set(tmp_path):
    cifar10_dvs(tmp_path, 3)
    with pytest.raises(ValueError, match="has 30 recordings: at most 9 of a class leave none for the test set"):
        snnfast.data.load("cifar10-dvs", tmp_path, frames=2)


def test_a_bad_frame_is_refused_by_name(tmp_path):
    of_arrays(tmp_path, many=1)
    data = snnfast.data.load("dvs-gesture", tmp_path, frames=3)
    np.savez(data.test.files[0], frames=np.zeros((4, 2, 128, 128)))
    with pytest.raises(
        ValueError, match=r"frames in .*user00_0.npz have shape \(4, 2, 128, 128\) and dtype float64, expected \(3, 2, 128, 128\)"
    ):
        data.test[0]
    data.test.files[1].write_bytes(b"")
    with pytest.raises(ValueError, match="user00_1.npz cannot be read"):
        data.test[1]
