"""exp(z) for z <= 0, in a specified order of operations: the definition.

    n = floor(z log2(e) + 1/2) ;  r = z - n ln(2), in two parts, |r| <= 0.35 ;  p = 1 + r + r^2/2! + ... + r^d/d!, by Horner ;  exp(z) = p 2^n

d = 7 in fp32 (d = 13 in fp64, `wide`): within two units in the last place. 2^n is multiplied in by the bits of -n, which is exact. Below -86 (-707)
the result is 0. A library's exp differs from another's in the last place; this one is the same on every backend. C++ twin:
`csrc/equations/functions/exponential.h`.
"""


def exponential(z, k):
    n = floor(z * 1.4426950408889634 + 0.5)
    r = (z - n * 0.693359375) + n * 2.1219444005469057e-4
    p = r * 0 + 1 / 5040
    if k.wide:
        p = r * (1 / 6227020800) + 1 / 479001600
        p = p * r + 1 / 39916800
        p = p * r + 1 / 3628800
        p = p * r + 1 / 362880
        p = p * r + 1 / 40320
        p = p * r + 1 / 5040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 0.5
    p = p * r + 1
    p = p * r + 1
    m = -n
    if k.wide:
        p = where(m >= 512, p * 7.458340731200207e-155, p)
        m = where(m >= 512, m - 512, m)
        p = where(m >= 256, p * 8.636168555094445e-78, p)
        m = where(m >= 256, m - 256, m)
        p = where(m >= 128, p * 2.938735877055719e-39, p)
        m = where(m >= 128, m - 128, m)
    p = where(m >= 64, p * 5.421010862427522e-20, p)
    m = where(m >= 64, m - 64, m)
    p = where(m >= 32, p * 2.3283064365386963e-10, p)
    m = where(m >= 32, m - 32, m)
    p = where(m >= 16, p * 1.52587890625e-05, p)
    m = where(m >= 16, m - 16, m)
    p = where(m >= 8, p * 0.00390625, p)
    m = where(m >= 8, m - 8, m)
    p = where(m >= 4, p * 0.0625, p)
    m = where(m >= 4, m - 4, m)
    p = where(m >= 2, p * 0.25, p)
    m = where(m >= 2, m - 2, m)
    p = where(m >= 1, p * 0.5, p)
    if k.wide:
        return where(z < -707, splat(z, 0.0), p)
    else:
        return where(z < -86, splat(z, 0.0), p)
