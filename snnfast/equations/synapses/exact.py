"""An exact product of spikes: the definition.

Behind the first layer a converted network multiplies weights by small integers: spikes s in {0, 1} or {-1, 0, 1}, or sums of them behind an average
pooling. The threshold of these spikes, the pooling's 1 / k^2 and the bias go into the weights, which become integers too:

    y[r, o] = b[o] + sum over k of s[r, k] w[o, k]        integers, so the sum has no order
    current[r, o] = fp32(y[r, o]) 2^(-e[o])               one rounding; the power of two makes none

w[o, k] = round(weight[o, k] u[k] 2^e[o]) and b[o] = round(bias[o] 2^e[o]), with u the value of one unit of s. The exponent e[o] of an output is the
largest with which no sum leaves int32, whatever the spikes are, and each weight fits three signed bytes. So a current is as close to that of real
numbers as fp32's, and it is the same to the last bit on every processor, in every batch, chunk and number of threads.
"""

LIMBS = 3  # signed bytes of a weight
LARGEST = 127 * (1 + 256 + 256**2)  # of a weight
MOST_SUM = 2**31 - 2
MOST_TERMS = 1 << 23  # of a sum, times the largest input: three bytes' sums then stay within int32 one by one
EXPONENTS = -96, 126  # 2^(-e) and every current are normal numbers of fp32


def quantised(weight, bias, most, signed, first=0):
    """(w, b, e): int64 [O, K], int64 [O], int64 [O]. weight: [O, K] fp64, in units of the input.  bias: [O] fp64.

    most: largest input.  signed: whether inputs may be -most. An output whose exponent would leave the range is refused by its number,
    counted from `first` on.
    """
    terms, magnitude = weight.size(1) * most, weight.abs()
    largest = magnitude.amax(1) if weight.size(1) else bias.new_zeros(bias.shape)
    if signed:
        reach = most * magnitude.sum(1) + bias.abs()
    else:
        reach = (most * weight.clamp(min=0).sum(1) + bias).maximum(most * (-weight).clamp(min=0).sum(1) - bias)
    room = ((MOST_SUM - terms / 2) / reach).minimum(LARGEST / largest)  # inf where nothing enters
    e = (room.nan_to_num(posinf=1.0).frexp().exponent.long() - 1).masked_fill(room.isinf(), 0)  # floor(log2(room))
    if bool((e < EXPONENTS[0]).any()):
        o = int((e < EXPONENTS[0]).nonzero()[0])
        raise ValueError(f"weights of output {first + o} sum to {float(reach[o]):.3g}: exact products take sums below 2^127")
    e = e.clamp(max=EXPONENTS[1])
    scaled = lambda t, e: t.ldexp(e).round().long()  # noqa: E731
    return scaled(weight, e[:, None]), scaled(bias, e), e


def limbs(w):
    """The signed bytes of integer weights, lowest first, int64: w = l0 + 256 l1 + 65536 l2."""
    found = []
    for _ in range(LIMBS):
        low = (w + 128) % 256 - 128
        found.append(low)
        w = (w - low) // 256
    return found


def whole(found):
    """The weights that these bytes make, in fp64, where they and all their sums are exact."""
    return sum(limb.double() * 256.0**i for i, limb in enumerate(found))


def units(x, per_unit):
    """The whole numbers that stand behind values x [..., C]. The errors of x, of the product and of a pooling's division are far below a half."""
    return (x * per_unit).round()


def current(y, scale):
    """The current of integer sums y, which are exact in fp64. scale: 2^(-e), fp32."""
    return y.float() * scale
