"""Recordings of event cameras as frames: DVS-Gesture, CIFAR10-DVS and N-MNIST.

A recording of N events becomes T frames: frame i counts the events i (N // T) to (i + 1)(N // T), the last one all that are left, by polarity and
pixel. This is SpikingJelly's "split by number" (Fang et al., Science Advances 2023), by which most published networks were trained.

What may lie below the folder, in the order in which it is looked for:

frames_number_<T>_split_by_number   frames as SpikingJelly keeps them, a file `frames` for each recording
events_np                           events as SpikingJelly keeps them, a file of `t`, `x`, `y`, `p` for each recording
DVSGesture, CIFAR10DVS, NMNIST      the files that are handed out, as the package tonic lays them out and reads them

Frames are written beside the events, the training and the test set each when it is asked for, whole or not at all.

Classes are numbered in the order of their folders' names as text, as SpikingJelly does: of DVS-Gesture 0, 1, 10, 2, ...
"""

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import os
import shutil
import socket
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from snnfast import checks
from snnfast.system.files import check_regular
from snnfast.system.text import first_line, plain

MOST_FRAMES = 1024
TRAIN_SHARE = (
    0.9  # of each class of a set without a test set: the first ones by name, as SpikingJelly's `split_to_train_test_set` takes them
)


@dataclasses.dataclass(frozen=True)
class Recordings:
    """A data set. classes: names of its folders.  size: pixels a side.  parts: whether it has a train and a test set.  tonic: its class there.

    frames: how many the papers take.
    """

    classes: tuple
    size: int
    parts: bool
    tonic: str
    frames: int


_OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SETS = {
    "dvs-gesture": Recordings(tuple(sorted(map(str, range(11)))), 128, True, "DVSGesture", 16),
    "cifar10-dvs": Recordings(_OBJECTS, 128, False, "CIFAR10DVS", 16),
    "n-mnist": Recordings(tuple(map(str, range(10))), 34, True, "NMNIST", 10),
}


def frames_of(events: dict, T: int, size: int) -> np.ndarray:
    """Frames [T, 2, size, size] of events {"t", "x", "y", "p": [N]}, in the order of time: counts, uint8 where they fit, else float32.

    Raises:
        ValueError: an array is missing or of another length, or an event lies outside.
    """
    missing = [key for key in "xyp" if key not in events]
    if missing:
        raise ValueError(f"has no {' and no '.join(missing)}")
    given = [np.asarray(events[key]).ravel() for key in "xyp"]
    for name, values in zip("xyp", given):
        if values.dtype.kind not in "uibf" or not np.isfinite(values).all():
            raise ValueError(f"has {name} of dtype {values.dtype} that are no whole numbers")
    x, y, p = (values.astype(np.int64) for values in given)
    if not len(x) == len(y) == len(p):
        raise ValueError(f"has {len(x)} x, {len(y)} y and {len(p)} p")
    for name, values, end in (("x", x, size), ("y", y, size), ("p", p, 2)):
        if len(values) and not 0 <= values.min() <= values.max() < end:
            raise ValueError(f"has events at {name} = {values.min()} to {values.max()}, and the camera has 0 to {end - 1}")
    each = len(x) // T
    frame = np.minimum(np.arange(len(x)) // each, T - 1) if each else np.full(len(x), T - 1)
    counts = np.bincount(((frame * 2 + p) * size + y) * size + x, minlength=T * 2 * size * size).reshape(T, 2, size, size)
    return counts.astype(np.uint8 if counts.max(initial=0) < 256 else np.float32)


class Frames(Dataset):
    """(frames fp32 [T, 2, size, size], class) of files."""

    def __init__(self, shape, files, labels):
        self.files, self.targets, self.shape = files, labels, shape

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        path = self.files[i]
        found = _arrays(path, ("frames",)).get("frames", np.zeros(0))
        if found.shape != self.shape or found.dtype.kind not in "uif":
            raise ValueError(f"frames in {plain(path)} have shape {found.shape} and dtype {found.dtype}, expected {self.shape}")
        return torch.from_numpy(found.astype(np.float32)), self.targets[i]


def read(name: str, root: Path, T: int | None = None, download: bool = False, train: bool = True):
    """(train or None, test, the set's `Recordings`, T). Events become frames once, which are kept."""
    what = SETS[name]
    T = what.frames if T is None else checks.integer("frames", T)
    if T > MOST_FRAMES:
        raise ValueError(f"frames must be at most {MOST_FRAMES}, got {T}")
    shape = (T, 2, what.size, what.size)
    if what.parts:
        found = [_listed(_ready(name, what, root, T, part, download), what) for part in (("train",) if train else ()) + ("test",)]
        return Frames(shape, *found[0]) if train else None, Frames(shape, *found[-1]), what, T
    files, labels = _listed(_ready(name, what, root, T, ".", download), what)
    parts: dict = {True: ([], []), False: ([], [])}
    for c in range(len(what.classes)):
        own = [file for file, label in zip(files, labels) if label == c]
        first = int(np.ceil(len(own) * TRAIN_SHARE))
        for i, file in enumerate(own):
            into = parts[i < first]
            into[0].append(file)
            into[1].append(c)
    if not all(files for files, _ in parts.values()):
        raise ValueError(f"{name} below {root} has {len(files)} recordings: at most 9 of a class leave none for the test set")
    return Frames(shape, *parts[True]) if train else None, Frames(shape, *parts[False]), what, T


def _ready(name, what, root, T, part, download):
    """The folder with the frames of a part, written if it is not there."""
    places = [root, root / what.tonic]  # several sets may lie below one root, as tonic has them
    frames = [place / f"frames_number_{T}_split_by_number" / part for place in places]
    for place, folder in zip(places, frames):
        if folder.is_dir() and (_classes(folder) == sorted(what.classes) or not places[1].is_dir()):
            _check_whole(folder, place / "events_np" / part)
            return folder
    events = root / "events_np"
    if events.is_dir() and (_classes(events / part) == sorted(what.classes) or not places[1].is_dir()):
        return _write(frames[0], what, T, lambda: _of_arrays(events, what, part))
    return _write(frames[1], what, T, lambda: _of_tonic(name, what, root, part, download))


def _check_whole(folder, events):
    """Refuses frames of which some are missing, as SpikingJelly leaves them where it is stopped."""
    here, there = ({p.relative_to(f) for p in f.glob("*/*.npz")} for f in (folder, events))
    if there - here:
        raise ValueError(f"{folder} lacks {len(there - here)} of {len(there)} recordings of {events}: remove it, and frames are made anew")


def _classes(folder):
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _listed(folder, what):
    """(files, their classes), by class and name."""
    if _classes(folder) != sorted(what.classes):
        told = ", ".join(_classes(folder)[:12]) or "none"
        raise ValueError(f"{folder} has the folders {told}; expected {', '.join(what.classes)}, one for each class")
    files, labels = [], []
    for c, name in enumerate(sorted(what.classes)):
        own = sorted((folder / name).glob("*.npz"))
        if not own:
            raise ValueError(f"{folder / name} holds no .npz files")
        files += own
        labels += [c] * len(own)
    return files, labels


def _arrays(path, keys):
    """Arrays of an .npz file, by name."""
    try:
        check_regular(path)
        file = np.load(path)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is no archive of arrays")
        with file:
            return {key: file[key] for key in keys if key in file.files}
    except Exception as error:  # of any kind: no archive, half of one, a damaged one, objects in it
        told = "it holds objects or is damaged" if "allow_pickle" in str(error) else first_line(error)
        raise ValueError(f"{plain(path)} cannot be read: {told}") from None


# ---- from events to frames


def _write(folder, what, T, jobs):
    """Writes the frames of a part: all of them or, if it is stopped, none. jobs: gives arguments of `_convert`. Returns the folder."""
    if folder.is_dir():
        if _classes(folder) == sorted(what.classes):  # another process was faster
            return folder
        raise ValueError(f"{folder} holds frames of another data set: each needs a folder of its own")
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} is there and no folder, so no frames can be kept in it")
    listed = jobs()
    own = f"{folder.name}.{socket.gethostname()}-"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(folder.parent, own)
        part = Path(tempfile.mkdtemp(prefix=f"{own}{os.getpid()}-", suffix=".part", dir=folder.parent))
    except OSError as error:
        raise ValueError(f"frames are kept beside the events, and {folder.parent} cannot be written: {error.strerror}") from None
    try:
        pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())  # compression leaves the interpreter to others
        try:
            for done in [pool.submit(_convert, part, T, what.size, *job) for job in listed]:
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)
        try:
            _listed(part, what)
        except ValueError as error:
            raise ValueError(str(error).replace(str(part), f"the recordings for {folder}", 1)) from None
        part.chmod(0o755)
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was as fast
                raise
    except OSError as error:
        raise ValueError(f"frames cannot be written to {folder}: {first_line(error)}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # if nothing is in it
    return folder


def _remove_left(folder, own):
    """Removes what processes of this machine left that were killed."""
    for part in folder.glob(f"{own}*.part"):
        pid = part.name.removeprefix(own).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(part, ignore_errors=True)


def _convert(part, T, size, where, told, load):
    """One recording. where: its file among the frames.  told: its name for a message.  load: gives its events."""
    try:
        frames = frames_of(load(), T, size)
    except ValueError as error:
        raise ValueError(f"recording {plain(told)}: {error}") from None
    (part / where).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(part / where, frames=frames)


def _of_arrays(events, what, part):
    """Jobs for `_convert`, of SpikingJelly's files."""
    files, _ = _listed(events / part, what)
    return [(file.relative_to(events / part), file, lambda file=file: _arrays(file, "txyp")) for file in files]


_HANDED_OUT = (".npy", ".bin", ".aedat4")


def _of_tonic(name, what, root, part, download):
    """Jobs for `_convert`, of the files that are handed out."""
    if not importlib.util.find_spec("tonic"):
        raise ModuleNotFoundError("tonic", name="tonic")
    import tonic.datasets

    base = root / what.tonic
    if not base.is_dir() and not download:
        raise ValueError(
            f"{root} has no frames or events of {name}: looked for frames_number_<T>_split_by_number, events_np and {what.tonic}"
        )
    given = getattr(tonic.datasets, what.tonic)
    # tonic asks for the archives too, and for as many files as there are in all; what is there is enough here.
    there = lambda self: any(file.suffix in _HANDED_OUT for file in (base / self.folder_name).rglob("*"))
    kind = type(what.tonic, (given,), {} if download else {"_check_exists": there, "download": _refuse(base)})
    try:
        found = kind(save_to=str(root), **({"train": part == "train"} if what.parts else {}))
    except (ValueError, KeyError, IndexError) as error:
        told = f"{base} holds files that {what.tonic} has not: {first_line(error)}"
        raise ValueError(str(error) if str(error).startswith(str(base)) else told) from None
    names = {i: key for key, i in given.classes.items()} if isinstance(given.classes, dict) else {}
    jobs = []
    for i, file in enumerate(map(Path, found.data)):
        label = names.get(found.targets[i], str(found.targets[i]))
        if name != "dvs-gesture" and file.parent.name != label:
            raise ValueError(f"recording {plain(file)} lies in a folder that is no class")
        own = "_".join(file.relative_to(base).with_suffix(".npz").parts)
        jobs.append((Path(label) / own, file, lambda found=found, i=i: _event(found, i)))
    return jobs


def _refuse(base):
    def download(self):
        raise ValueError(f"{base / self.folder_name} holds no recordings of {base.name}; --download (download=True) fetches them")

    return download


def _event(found, i):
    """The events of a recording, from tonic."""
    try:
        events, _ = found[i]
    except ModuleNotFoundError:  # the package that reads this kind of file
        raise
    except Exception as error:  # of any kind: a file that is damaged
        raise ValueError(f"cannot be read: {first_line(error)}") from None
    return {key: events[key] for key in "txyp"}
