// The gathering loop on the CPU: each output adds the weights of the inputs that are not zero. An equation gives add. How a launch is cut: blocks.h.
// Sums of whole numbers are added up in the memory of the result, and become currents there.
//
// Output channels lie on the lanes, and the sums of a panel of them in registers. The inputs of a block are listed once. Then, panel by panel and
// tap by tap, the weights of up to 256 inputs for one panel stay in the first cache levels while every output of the block goes through its list.
#pragma once
#include <algorithm>
#include <type_traits>

#include "../../params.h"
#include "blocks.h"
#include "few_channels.h"
#include "nonzero.h"
#include "simd.h"

namespace snn::inline SNN_ISA {

#if defined(__AVX512BW__)
constexpr int kSums = 4;  // registers: with more, the lists of a short row would do too little work per load and store of a sum
#else
constexpr int kSums = 8;
#endif
template <class S> constexpr int kPanel = kSums * kWidth<S>;
static_assert(kPanel<float> <= kMostPanel);
constexpr int kWorthCopying = 64;  // the fewest outputs of a block for which weights that lie apart are copied together

// Adds a list to K vectors of sums. The weights of input i are at w + i * w_stride. ones: all values are 1.
template <class E, int K, bool ones, class S>
SNN_HD void add_listed(S* sum, const S* w, int64_t w_stride, const uint16_t* index, const S* value, int count) {
  using V = Lane<S>;
  V total[K];
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) total[k] = load(sum + k * kWidth<S>);
  const auto one = [&](int i) __attribute__((always_inline)) {
    const S* row = w + index[i] * w_stride;
    if constexpr (ones) {
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) total[k] = E::add_one(total[k], load(row + k * kWidth<S>));
    } else {
      const V x = splat<V>(value[i]);
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) total[k] = E::add(total[k], x, load(row + k * kWidth<S>));
    }
  };
  int i = 0;
  for (; i + 4 <= count; i += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) one(i + j);
  }
  for (; i < count; ++i) one(i);
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) store(sum + k * kWidth<S>, total[k], false);
}

// One block of a launch at a time, in the scratch of one thread. X: an input in memory; S: a value, weight or sum.
template <class E, class X, class S>
class Gathering {
 public:
  Gathering(const Gather& p, const Blocks& blocks, void* scratch)
      : p_(p), b_(blocks), x_(static_cast<const X*>(p.x)), w_(static_cast<const S*>(p.w)), bias_(static_cast<const S*>(p.bias)),
        y_(static_cast<S*>(p.y)), outputs_(p.O / p.groups) {
    sums_ = static_cast<S*>(scratch);
    tile_ = sums_ + b_.sums();
    value_ = tile_ + b_.tile();
    start_ = reinterpret_cast<int32_t*>(value_ + b_.values());
    index_ = reinterpret_cast<uint16_t*>(start_ + b_.in_places() * b_.lists + 16);
  }

  void unit(int64_t unit) {
    const int64_t block = unit / b_.parts, part = unit % b_.parts;
    if (b_.per_image > 1) {
      image_ = block / b_.per_image, images_ = 1;
      first_ = block % b_.per_image * b_.rows, rows_ = std::min(b_.rows, p_.Ho - first_);
    } else {
      image_ = block * b_.images, images_ = std::min(b_.images, p_.R - image_);
      first_ = 0, rows_ = p_.Ho;
    }
    in_first_ = std::clamp<int64_t>(first_ * p_.rule.stride_y - p_.rule.padding_y, 0, p_.H);
    const int64_t last = (first_ + rows_ - 1) * p_.rule.stride_y - p_.rule.padding_y + (p_.KY - 1) * p_.rule.dilation_y + 1;
    in_rows_ = std::clamp<int64_t>(last, in_first_, p_.H) - in_first_;
    const int64_t panels = (outputs_ + kPanel<S> - 1) / kPanel<S>, all = p_.groups * panels;  // of one group, and of all
    const int64_t from = all * part / b_.parts, to = all * (part + 1) / b_.parts;
    for (int64_t group = from / panels; group * panels < to; ++group) {
      const int64_t begin = std::max(from, group * panels), end = std::min(to, (group + 1) * panels);
      first_c_ = group * p_.C;
      int64_t slab = 0;
      do {  // once where there are no channels
        list_all(slab, std::min(b_.slab, p_.C - slab));
        for (int64_t panel = begin; panel < end; ++panel) fill_panel(group * outputs_, (panel - group * panels) * kPanel<S>, slab);
      } while ((slab += b_.slab) < p_.C);
    }
  }

 private:
  const Gather& p_;
  const Blocks& b_;
  const X* x_;
  const S *w_, *bias_;
  S *y_, *sums_, *tile_, *value_;
  int32_t* start_;
  uint16_t* index_;
  int64_t outputs_;  // of one group
  int64_t image_, images_, first_, rows_, in_first_, in_rows_;
  int64_t first_c_ = 0;  // the first channel of the group
  bool ones_ = false;    // all listed values are 1

  // Makes the lists of all places of the block's input, for `channels` channels from `slab` on. start_ has one entry more than there are lists.
  void list_all(int64_t slab, int64_t channels) {
    const int64_t all = p_.groups * p_.C;  // channels of a place
    int32_t at = 0;
    int64_t entry = 0;
    for (int64_t image = image_; image < image_ + images_; ++image) {
      const X* place = x_ + (image * p_.H + in_first_) * p_.W * all + first_c_ + slab;
      for (int64_t i = 0; i < in_rows_ * p_.W; ++i, place += all)
        for (int64_t c = 0; c < channels; c += kChannels) {
          start_[entry++] = at;
          at += list_one(place + c, first_c_ + slab + c, int(std::min<int64_t>(kChannels, channels - c)), index_ + at, value_ + at);
        }
    }
    start_[entry] = at;
    if constexpr (E::whole) {
      S other = 0;
      for (int32_t i = 0; i < at; ++i) other |= value_[i] ^ S(1);
      ones_ = !other;
    }
  }

  int list_one(const X* x, int64_t c, int count, uint16_t* index, S* value) {
    if constexpr (!E::whole) return list(x, count, index, value);
    else if constexpr (sizeof(X) == 1) return list_bytes(x, count, index, value);
    else return list_units(x, count, index, value, p_.per_unit + (p_.by_channel ? c : 0), p_.by_channel);
  }

  // Adds the channels of a slab to all sums of the outputs [at, at + kPanel) of a group. base: the group's first output.
  void fill_panel(int64_t base, int64_t at, int64_t slab) {
    const int64_t o = base + at, width = std::min<int64_t>(kPanel<S>, outputs_ - at);
    const bool ragged = width < kPanel<S>;
    S* sums = ragged ? sums_ : y_ + (image_ * p_.Ho + first_) * p_.Wo * p_.O + o;
    const int64_t stride = ragged ? kPanel<S> : p_.O, places = images_ * rows_ * p_.Wo;
    if (slab == 0) begin(sums, stride, places, o, width);
    const int vectors = ragged ? int((width + kWidth<S> - 1) / kWidth<S>) : kSums;
    const int64_t channels = std::min(b_.slab, p_.C - slab);
    for (int64_t ky = 0; ky < p_.KY; ++ky)
      for (int64_t kx = 0; kx < p_.KX; ++kx)
        for (int64_t c = 0; c < channels; c += kChannels) {
          const S* w = w_ + ((ky * p_.KX + kx) * p_.C + slab + c) * p_.O + o;
          const int64_t many = std::min<int64_t>(kChannels, channels - c);
          const bool copied = ragged || (p_.O > kPanel<S> && places >= kWorthCopying);
          if (copied) copy(w, many, width);
          const S* from = copied ? tile_ : w;
          const int64_t w_stride = copied ? kPanel<S> : p_.O, which = c / kChannels;
          if (vectors == 1) tap<1>(sums, stride, from, w_stride, ky, kx, which);
          else if (vectors == 2) tap<2>(sums, stride, from, w_stride, ky, kx, which);
          else if (vectors <= 4) tap<4>(sums, stride, from, w_stride, ky, kx, which);
          else tap<kSums>(sums, stride, from, w_stride, ky, kx, which);
        }
    if (slab + b_.slab < p_.C) return;
    if constexpr (E::whole) to_currents(sums, stride, places, o, width);
    if (!ragged) return;
    S* y = y_ + (image_ * p_.Ho + first_) * p_.Wo * p_.O + o;
    for (int64_t i = 0; i < places; ++i) std::copy_n(sums_ + i * kPanel<S>, width, y + i * p_.O);
  }

  void begin(S* sums, int64_t stride, int64_t places, int64_t o, int64_t width) {
    for (int64_t i = 0; i < places; ++i) {
      if (bias_) std::copy_n(bias_ + o, width, sums + i * stride);
      else std::fill_n(sums + i * stride, width, S(0));
    }
  }

  void to_currents(S* sums, int64_t stride, int64_t places, int64_t o, int64_t width) {
    alignas(64) float scale[kPanel<S>] = {};
    std::copy_n(p_.scale + o, width, scale);
    for (int64_t i = 0; i < places; ++i)
      for (int64_t k = 0; k < width; k += kWidth<S>) {
        const F32 y = E::current(converted(load(sums + i * stride + k)), load(scale + k));
        store(sums + i * stride + k, reinterpret_cast<Lane<S>>(y), false);
      }
  }

  void copy(const S* w, int64_t many, int64_t width) {
    for (int64_t i = 0; i < many; ++i) {
      if (width == kPanel<S>) {
#pragma GCC unroll 8
        for (int k = 0; k < kPanel<S>; k += kWidth<S>) store(tile_ + i * kPanel<S> + k, load(w + i * p_.O + k), false);
      } else {
        std::copy_n(w + i * p_.O, width, tile_ + i * kPanel<S>);
      }
    }
  }

  template <int K>
  SNN_HD void add(S* sum, const S* w, int64_t w_stride, int32_t at, int32_t count) {
    const auto listed = [&](auto ones, int64_t stride)
                            __attribute__((always_inline)) { add_listed<E, K, ones()>(sum, w, stride, index_ + at, value_ + at, count); };
    const auto with_stride = [&](auto ones) __attribute__((always_inline)) {
      if (w_stride == kPanel<S>) listed(ones, kPanel<S>);
      else listed(ones, w_stride);
    };
    if constexpr (E::whole) {
      if (ones_) return with_stride(std::true_type{});
    }
    with_stride(std::false_type{});
  }

  // Adds one tap, with one list of every place, to all outputs of the block.
  template <int K>
  void tap(S* sums, int64_t stride, const S* w, int64_t w_stride, int64_t ky, int64_t kx, int64_t which) {
    const auto& r = p_.rule;
    const int64_t shift = kx * r.dilation_x - r.padding_x;  // output j reads column j stride_x + shift
    const int64_t begin = shift >= 0 ? 0 : (-shift + r.stride_x - 1) / r.stride_x;
    const int64_t end = shift >= p_.W ? 0 : std::min(p_.Wo, (p_.W - 1 - shift) / r.stride_x + 1);
    for (int64_t image = 0; image < images_; ++image)
      for (int64_t row = 0; row < rows_; ++row) {
        const int64_t from = (first_ + row) * r.stride_y + ky * r.dilation_y - r.padding_y;
        if (from < 0 || from >= p_.H) continue;
        const int32_t* lists = start_ + ((image * in_rows_ + from - in_first_) * p_.W + shift) * b_.lists + which;
        S* sum = sums + (image * rows_ + row) * p_.Wo * stride;
        for (int64_t j = begin; j < end; ++j) {
          const int32_t* list = lists + j * r.stride_x * b_.lists;
          const int32_t at = list[0], count = list[1] - at;
          if (!count) continue;
          add<K>(sum + j * stride, w, w_stride, at, count);
        }
      }
  }
};

template <class E, template <class, class, class> class Form, class B>
void units_of(const Gather& p, const B& blocks, int64_t first, int64_t end, void* scratch) {
  const auto all = [&](auto&& form) {
    for (int64_t unit = first; unit < end; ++unit) form.unit(unit);
  };
  if constexpr (E::whole) {
    if (p.bytes) all(Form<E, int8_t, uint32_t>(p, blocks, scratch));
    else all(Form<E, float, uint32_t>(p, blocks, scratch));
  } else {
    if (p.dtype == Dtype::f64) all(Form<E, double, double>(p, blocks, scratch));
    else all(Form<E, float, float>(p, blocks, scratch));
  }
}

// Units [first, end) of the launch. scratch: cut.bytes(), aligned to 64.
template <class E>
void gather(const Gather& p, const Cut& cut, int64_t first, int64_t end, void* scratch) {
  if (cut.by_lane) units_of<E, LaneByLane>(p, cut.lanes, first, end, scratch);
  else units_of<E, Gathering>(p, cut.blocks, first, end, scratch);
}

}  // namespace snn
