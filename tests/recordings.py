"""Small files of event cameras, in the formats of the data sets that are handed out."""

import struct

import flatbuffers
import numpy as np

from snnfast.data import events


def drawn(N, size=128, seed=0):
    """Events in the order of time."""
    g = np.random.default_rng(seed)
    return dict(t=np.arange(N) * 7, x=g.integers(0, size, N), y=g.integers(0, size, N), p=g.integers(0, 2, N).astype(bool))


def of_bytes(given):
    """N-MNIST's file: five bytes an event, x, y, a bit of polarity and 23 of the time."""
    rows = zip(*(given[key].tolist() for key in "xyp"), given["t"].tolist())
    return b"".join(struct.pack(">BBBH", x, y, p << 7 | t >> 16, t & 0xFFFF) for x, y, p, t in rows)


XML = (
    '<dv version="2.0"><node name="outInfo" path="/outInfo/"><node name="0" path="/outInfo/0/"><attr key="compression" type="string">NONE</attr>'
    '<attr key="typeIdentifier" type="string">EVTS</attr><node name="info" path="/outInfo/0/info/"><attr key="sizeX" type="int">128</attr>'
    '<attr key="sizeY" type="int">128</attr></node></node></node></dv>'
)


def aedat4(given):
    """A file of CIFAR10-DVS in AEDAT 4: a header and one packet, both of flatbuffers."""

    def finished(identifier, build):
        b = flatbuffers.Builder(1024)
        b.FinishSizePrefixed(build(b), file_identifier=identifier)
        return bytes(b.Output())

    def header(b):
        text = b.CreateString(XML)
        b.StartObject(3)
        b.PrependInt64Slot(1, -1, 0)
        b.PrependUOffsetTRelativeSlot(2, text, 0)
        return b.EndObject()

    def packet(b):
        b.StartVector(16, len(given["t"]), 8)
        for t, x, y, p in reversed(list(zip(*(given[key].tolist() for key in "txyp")))):
            b.Prep(8, 16)
            b.Pad(3)
            b.PrependBool(p)
            b.PrependInt16(y)
            b.PrependInt16(x)
            b.PrependInt64(t)
        elements = b.EndVector()
        b.StartObject(1)
        b.PrependUOffsetTRelativeSlot(0, elements, 0)
        return b.EndObject()

    body = finished(b"EVTS", packet)
    return b"#!AER-DAT4.0\r\n" + finished(b"IOHE", header) + struct.pack("<II", 0, len(body)) + body


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def digit(c, i):
    """Recording i of class c, which shows by the columns that its events are in."""
    given = drawn(400, 34, 100 * c + i)
    return given | dict(x=given["x"] % 4 + 3 * c)


def n_mnist(root, many=2):
    for part in ("Train", "Test"):
        for c in range(10):
            for i in range(many):
                put(root / "NMNIST" / part / str(c) / f"{i:05d}.bin", of_bytes(digit(c, i)))


def gesture(root):
    for part, user in (("ibmGestureTrain", 1), ("ibmGestureTest", 24)):
        for c in range(11):
            given = drawn(200, seed=c)
            folder = root / "DVSGesture" / part / f"user{user:02d}_led"
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{c}.npy", np.stack([given[key].astype(np.float64) for key in "xypt"], 1))


def cifar10_dvs(root, many=10):
    for name in events.SETS["cifar10-dvs"].classes:
        for i in range(many):
            put(root / "CIFAR10DVS" / name / f"cifar10_{name}_{i}.aedat4", aedat4(drawn(60, seed=i)))


def of_arrays(root, size=128, parts=("train", "test"), many=2):
    """SpikingJelly's files of events."""
    for part in parts:
        for c in events.SETS["dvs-gesture"].classes:
            folder = root / "events_np" / part / c
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(many):
                np.savez(folder / f"user{i:02d}_{c}.npz", **drawn(50, size, i))
