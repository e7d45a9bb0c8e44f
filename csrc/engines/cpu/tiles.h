// How stage one of sums is cut on the CPU: the engine, the op's allocation and the tests read it here.
#pragma once
#include <algorithm>

#include "../../host_device.h"
#include "../../params.h"
#include "sizes.h"

namespace snn {

// A tile is: with one theta, kTile elements; with runs of 32 or more elements per theta, one run; otherwise as many rows of [C, inner] as fill kTile
// elements, summed per theta. A tile leaves one number, or one per theta if the tile holds every theta.
struct Tiles {
  bool runs;  // one theta per tile
  int64_t rows, size, many, numbers;

  SNN_HD explicit Tiles(const Elementwise& p) {
    const bool one = p.C == 1;
    runs = one || p.inner >= kUnit;
    rows = std::max<int64_t>(1, kTile / (p.C * p.inner));
    size = one ? kTile : runs ? p.inner : rows * p.C * p.inner;
    many = (p.N + size - 1) / size;
    numbers = runs ? many : many * p.C;
  }
};

// The sums of channels: a stripe is `rows` rows of [C, inner], about four tiles, and leaves two numbers for each channel.
struct Stripes {
  int64_t rows, many, numbers;

  SNN_HD explicit Stripes(const Channels& p) {
    const int64_t row = p.C * p.inner, outer = p.N / row;
    rows = std::max<int64_t>(1, 4 * kTile / row);
    many = (outer + rows - 1) / rows;
    numbers = many * 2 * p.C;
  }
};

}  // namespace snn
