"""Numbers from names: the weights of a network without storing them, the same on every machine (integer arithmetic only)."""

import zlib

import numpy as np


def uniform(name, shape, salt=0):
    """float32 in [0, 1), element i from murmur3's finaliser of i*0x9E3779B1 + crc32(name) + salt."""
    n = int(np.prod(shape, dtype=np.int64)) if len(shape) else 1
    z = np.arange(n, dtype=np.uint64) * np.uint64(0x9E3779B1) + np.uint64(zlib.crc32(name.encode())) + np.uint64(salt)
    z &= np.uint64(0xFFFFFFFF)
    for shift, mul in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        z ^= z >> np.uint64(shift)
        z = (z * np.uint64(mul)) & np.uint64(0xFFFFFFFF)
    z ^= z >> np.uint64(16)
    return ((z >> np.uint64(8)).astype(np.float64) / 2.0**24).astype(np.float32).reshape(shape)


def value(name, shape, names, gain, scale, shift, salt=0):
    """One entry of a state dict. `names`: all its keys, to tell batch norms from the rest.

    conv, linear weights  (2u-1) sqrt(3 gain / fan_in)     their biases        (u - 1/2)/5
    BN weight             scale (0.8 + 0.8 u)              BN bias             shift + (u - 1/2) 0.6
    running_mean          (u - 1/2) 0.4                    running_var         0.5 + u
    w (PLIF)              u - 1/2                          firing_rate_*       0.05 + 0.3 u        LayerNorm (unused): as BN
    """
    last, stem = name.rsplit(".", 1)[-1], name.rsplit(".", 1)[0]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    u = uniform(name, shape, salt)
    f = np.float32
    if last == "running_mean":
        return (u - f(0.5)) * f(0.4)
    if last == "running_var":
        return f(0.5) + u
    if last.startswith("firing_rate"):
        return f(0.05) + f(0.3) * u
    if last == "w":
        return u - f(0.5)
    if len(shape) >= 2:
        fan_in = int(np.prod(shape[1:]))
        return (f(2) * u - f(1)) * f(np.sqrt(3.0 * gain / fan_in))
    norm = f"{stem}.running_mean" in names or ".norm" in name
    if last == "weight":
        return f(scale) * (f(0.8) + f(0.8) * u)
    return f(shift) + (u - f(0.5)) * f(0.6) if norm else (u - f(0.5)) / f(5)


def state(shapes, gain=4.0, scale=1.0, shift=0.2, salt=0):
    """{key: array} for {key: shape}."""
    return {k: value(k, tuple(s), shapes, gain, scale, shift, salt) for k, s in shapes.items()}


def image(shape, salt=0):
    """The input: uniform in [-2, 2)."""
    return np.float32(4) * uniform("input", shape, salt) - np.float32(2)
