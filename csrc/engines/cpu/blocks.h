// How a convolution is cut on the CPU: the engine and the op's allocation both read this file. No result depends on how the work is cut.
#pragma once
#include <algorithm>
#include <cstdint>

#include "../../params.h"

namespace snn {

constexpr int kChannels = 256;           // inputs per list of non-zeros: their weights for one panel of outputs stay near the core
constexpr int kPlaces = 256;             // outputs per block, so that these weights are read often
constexpr int64_t kListBytes = 2 << 20;  // at most, for the lists of a block, where every input is non-zero
constexpr int kMostPanel = 64;           // output channels at a time, in the widest instruction set

// A block is some output rows of one image, or some whole images; a unit is a block for some of the panels of output channels.
struct Blocks {
  int64_t images, rows;     // of a block; whole images have all rows
  int64_t per_image, many;  // blocks of an image (1 for whole ones), and of the launch
  int64_t groups;           // of panels: where blocks are fewer than threads, their outputs are shared out
  int64_t slab, lists;      // channels that are listed together, and lists of each place
  int64_t in_rows;          // rows of input of a block, for each image

  Blocks(const Gather& p, int64_t threads) : size_(p.dtype == Dtype::f64 ? 8 : 4), places_in_row_(p.Wo) {
    // With several taps, a sum takes all channels of one tap before the next tap, so all channels are listed.
    slab = p.KY * p.KX > 1 ? p.C : std::min<int64_t>(p.C, kChannels);
    lists = (slab + kChannels - 1) / kChannels;
    const int64_t widest = std::max<int64_t>(1, kListBytes / std::max<int64_t>(1, p.W * slab * (size_ + 2)));  // rows of input
    rows = std::clamp<int64_t>(kPlaces / std::max<int64_t>(1, p.Wo), 1, p.Ho);
    while (rows > 1 && rows_in(p, rows) > widest) --rows;
    images =
        rows < p.Ho ? 1 : std::clamp<int64_t>(std::min(kPlaces / (p.Ho * p.Wo), widest / std::max<int64_t>(1, p.H)), 1, std::max<int64_t>(1, p.R));
    per_image = (p.Ho + rows - 1) / rows;
    many = per_image > 1 ? p.R * per_image : (p.R + images - 1) / images;
    groups = many >= threads ? 1 : std::clamp<int64_t>((p.O + kMostPanel - 1) / kMostPanel, 1, threads);
    in_rows = rows == p.Ho ? p.H : rows_in(p, rows);
    w_ = p.W;
  }

  int64_t units() const { return many * groups; }
  int64_t places() const { return images * rows * places_in_row_; }
  int64_t in_places() const { return images * in_rows * w_; }

  // Scratch of one thread: sums of a ragged panel, weights of one list, and for every place of the input its lists.
  int64_t sums() const { return places() * kMostPanel; }
  int64_t tile() const { return kChannels * kMostPanel; }
  int64_t values() const { return in_places() * slab + kMostPanel; }  // a vector may be written beyond the last
  int64_t bytes() const {
    const int64_t starts = 4 * (in_places() * lists + 16);
    return ((sums() + tile() + values()) * size_ + starts + 2 * values() + 63) / 64 * 64;
  }

 private:
  int64_t size_, places_in_row_, w_ = 0;

  static int64_t rows_in(const Gather& p, int64_t rows) { return std::min(p.H, (rows - 1) * p.rule.stride_y + (p.KY - 1) * p.rule.dilation_y + 1); }
};

}  // namespace snn
