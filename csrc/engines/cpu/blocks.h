// How a convolution is cut on the CPU: the engine and the op's allocation both read this file. No result depends on how the work is cut.
#pragma once
#include <algorithm>
#include <cstdint>

#include "../../params.h"

namespace snn {

constexpr int kChannels = 256;               // inputs per list of non-zeros: their weights for one panel of outputs stay near the core
constexpr int kPlaces = 256;                 // outputs per block, so that these weights are read often
constexpr int64_t kListBytes = 2 << 20;      // at most, for the lists of a block, where every input is non-zero
constexpr int kFewChannels = 48;             // groups of fewer are computed lane by lane: few_channels.h
constexpr int64_t kSpreadBytes = 256 << 10;  // about, for the inputs of a block there
constexpr int kMostPanel = 64;               // output channels at a time, in the widest instruction set

// A block is some output rows of one image, or some whole images; a unit is a block for some of the panels of output channels, of all groups.
struct Blocks {
  int64_t images, rows;     // of a block; whole images have all rows
  int64_t per_image, many;  // blocks of an image (1 for whole ones), and of the launch
  int64_t parts;            // of the panels: where blocks are fewer than threads, their outputs are shared out
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
    const int64_t panels = p.groups * ((p.O / p.groups + kMostPanel - 1) / kMostPanel);
    parts = many >= threads ? 1 : std::clamp<int64_t>(panels, 1, threads);
    in_rows = rows == p.Ho ? p.H : rows_in(p, rows);
    w_ = p.W;
  }

  int64_t units() const { return many * parts; }
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

// The cut of a launch whose groups have few channels: a unit is some output rows of one image, for kMostPanel outputs.
struct LaneBlocks {
  int64_t panels, rows, per_image, many, in_rows;
  int64_t columns;  // of input, with padding

  explicit LaneBlocks(const Gather& p)
      : columns(p.W + 2 * p.rule.padding_x), size_(p.dtype == Dtype::f64 ? 8 : 4), line_(columns * p.C * kMostPanel), taps_(p.KY * p.KX * p.C),
        channels_(p.C * (kMostPanel + 2)) {
    panels = (p.O + kMostPanel - 1) / kMostPanel;
    const auto of = [&](int64_t rows) { return std::min(p.H, (rows - 1) * p.rule.stride_y + (p.KY - 1) * p.rule.dilation_y + 1); };
    rows = p.Ho;
    while (rows > 1 && of(rows) * line_ * size_ > kSpreadBytes) rows = (rows + 1) / 2;
    per_image = (p.Ho + rows - 1) / rows, many = p.R * per_image, in_rows = of(rows);
  }

  // Whether a launch is cut so: where lists would be short, and weights and the input of an output row are not too much.
  bool serve(const Gather& p) const { return p.groups > 1 && p.C < kFewChannels && bytes() <= kListBytes; }

  int64_t units() const { return many * panels; }

  // Scratch of one thread: weights, inputs, and the channels of one place.
  int64_t weights() const { return taps_ * kMostPanel; }
  int64_t spread() const { return in_rows * line_; }
  int64_t bytes() const { return ((weights() + spread() + channels_) * size_ + 63) / 64 * 64; }

 private:
  int64_t size_, line_, taps_, channels_;
};

struct Cut {
  Blocks blocks;
  LaneBlocks lanes;
  bool by_lane;

  Cut(const Gather& p, int64_t threads) : blocks(p, threads), lanes(p), by_lane(lanes.serve(p)) {}
  int64_t units() const { return by_lane ? lanes.units() : blocks.units(); }
  int64_t bytes() const { return by_lane ? lanes.bytes() : blocks.bytes(); }
};

}  // namespace snn
