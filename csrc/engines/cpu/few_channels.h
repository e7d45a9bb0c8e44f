// Convolutions whose groups have few channels, depthwise ones among them, on the CPU. An equation gives add.
//
// Outputs lie on the lanes, and each lane reads the input of its own group: a block's input is spread out once, a number for each lane, with zeros
// beside the image, and every tap reads it from there. Zeros add nothing, but take their time: lists of so few inputs would cost more than the sums.
#pragma once
#include <algorithm>
#include <type_traits>

#include "../../params.h"
#include "blocks.h"
#include "simd.h"

namespace snn::inline SNN_ISA {

// One block of a launch at a time, in the scratch of one thread. X: an input in memory; S: a value, weight or sum.
template <class E, class X, class S>
class LaneByLane {
 public:
  LaneByLane(const Gather& p, const LaneBlocks& blocks, void* scratch)
      : p_(p), b_(blocks), weights_(static_cast<S*>(scratch)), spread_(weights_ + b_.weights()), place_(spread_ + b_.spread()),
        outputs_(p.O / p.groups), shared_(outputs_ % kWidth<S> == 0) {}

  void unit(int64_t unit) {
    const int64_t panel = unit / b_.many, block = unit % b_.many;
    if (panel != panel_) lay_weights(panel);
    const auto& r = p_.rule;
    image_ = block / b_.per_image, first_ = block % b_.per_image * b_.rows, rows_ = std::min(b_.rows, p_.Ho - first_);
    in_first_ = std::clamp<int64_t>(first_ * r.stride_y - r.padding_y, 0, p_.H);
    in_rows_ = std::clamp<int64_t>((first_ + rows_ - 1) * r.stride_y - r.padding_y + (p_.KY - 1) * r.dilation_y + 1, in_first_, p_.H) - in_first_;
    for (strip_ = 0; strip_ < kStrips && begin(strip_) < p_.O; ++strip_) {
      o_ = begin(strip_), width_ = width(strip_);
      lay_input();
      if (shared_) chosen_ ? strip<true, true>() : strip<true, false>();
      else chosen_ ? strip<false, true>() : strip<false, false>();
    }
  }

 private:
  using Lanes = typename LaneOf<S>::I;
  using Index = std::conditional_t<sizeof(S) == 8, int64_t, int32_t>;
  static constexpr int kAhead = 16;  // places whose inputs are on their way: the next ones lie too far apart for the processor to guess them
  static constexpr int kWide = 2 * kWidth<S>;  // outputs at a time
  static constexpr int kStrips = kMostPanel / kWide;
  static_assert(kMostPanel % kWide == 0);

  const Gather& p_;
  const LaneBlocks& b_;
  S *weights_, *spread_, *place_;  // [strips, KY, KX, C, kWide]; [rows of input, columns with padding, pitch_]; the channels of one place
  int64_t outputs_;                // of a group
  bool shared_;                    // the lanes of a vector read one group: its channels are not spread out
  int64_t pitch_, second_;         // numbers of a place; where those of the second vector begin
  int64_t panel_ = -1, image_, first_, rows_, in_first_, in_rows_, o_;
  int strip_, width_;
  // Whether an input of zero must be told from others: where its product with a weight is no zero, or a bias is -0.
  bool chosen_ = false;
  alignas(64) S bias_[kMostPanel];
  alignas(64) float scale_[kMostPanel];

  int64_t begin(int strip) const { return panel_ * kMostPanel + strip * kWide; }  // its first output
  int width(int strip) const { return int(std::clamp<int64_t>(p_.O - begin(strip), 0, kWide)); }

  // Lays what belongs to the outputs of a panel lane by lane.
  void lay_weights(int64_t panel) {
    panel_ = panel, chosen_ = false;
    std::fill_n(bias_, kMostPanel, S(0));
    std::fill_n(scale_, kMostPanel, 0.0f);
    const int64_t taps = p_.KY * p_.KX * p_.C;
    for (int strip = 0; strip < kStrips; ++strip) {
      const int64_t o = begin(strip);
      const int many = width(strip);
      if (p_.bias) std::copy_n(static_cast<const S*>(p_.bias) + o, many, bias_ + strip * kWide);
      if constexpr (E::whole) std::copy_n(p_.scale + o, many, scale_ + strip * kWide);
      for (int64_t k = 0; k < taps && many; ++k) {
        S* to = weights_ + (strip * taps + k) * kWide;
        std::copy_n(static_cast<const S*>(p_.w) + k * p_.O + o, many, to);
        std::fill_n(to + many, kWide - many, S(0));
        if constexpr (!E::whole)
          for (int i = 0; i < many; ++i) chosen_ |= !(to[i] - to[i] == 0);
      }
    }
    if constexpr (!E::whole)
      for (S b : bias_) chosen_ |= b == 0 && std::signbit(b);
  }

  void lay_input() {
    const int64_t all = p_.groups * p_.C, first = o_ / outputs_ * p_.C, count = (o_ + width_ - 1) / outputs_ * p_.C + p_.C - first;  // channels
    pitch_ = shared_ ? (count + kWide - 1) / kWide * kWide : p_.C * kWide;
    second_ = shared_ ? (o_ + kWidth<S>) / outputs_ * p_.C - first : kWidth<S>;
    const int64_t row = b_.columns * pitch_, beside = p_.rule.padding_x * pitch_;
    const X* from = static_cast<const X*>(p_.x) + (image_ * p_.H + in_first_) * p_.W * all + first;
    const bool as_they_lie = shared_ || (outputs_ == 1 && p_.C == 1);
    alignas(64) Index channel[kWide] = {};  // that a lane reads first; of the lanes of a vector, behind the first lane's
    Index start[2] = {}, reach = 0;
    for (int i = 0; i < width_; ++i) {
      channel[i] = Index((o_ + i) / outputs_ * p_.C - first);
      if (i % kWidth<S> == 0) start[i / kWidth<S>] = channel[i];
      channel[i] -= start[i / kWidth<S>];
      reach = std::max(reach, channel[i]);
    }
    const bool near = reach + p_.C <= kWidth<S>;  // the lanes of a vector read from one vector
    const Lanes lanes[2] = {*reinterpret_cast<const Lanes*>(channel), *reinterpret_cast<const Lanes*>(channel + kWidth<S>)};
    for (int64_t y = 0; y < in_rows_; ++y) {
      S* to = spread_ + y * row;
      std::fill_n(to, beside, S(0));
      to += beside;
      for (int64_t x = 0; x < p_.W; ++x, from += all) {
        for (int64_t ahead = 0; ahead < count; ahead += 64 / int64_t(sizeof(X))) __builtin_prefetch(from + kAhead * all + ahead);
        if (as_they_lie) {
          convert(to, from, int(count), first);
          to += pitch_;
          continue;
        }
        convert(place_, from, int(count), first);
        for (int64_t c = 0; c < p_.C; ++c, to += kWide) {
          const auto vector = [&](int v) __attribute__((always_inline)) {
            const S* source = place_ + start[v];
            if (near) store(to + v * kWidth<S>, __builtin_shuffle(load(source), lanes[v] + Index(c)), false);
            else
              for (int i = v * kWidth<S>; i < (v + 1) * kWidth<S>; ++i) to[i] = source[channel[i] + c];
          };
          vector(0), vector(1);
        }
      }
      std::fill_n(to, beside, S(0));
    }
  }

  // to[i] = the number of channel first + i, in units where sums are of whole numbers; zeros up to a multiple of kWide.
  SNN_HD void convert(S* __restrict to, const X* __restrict from, int count, int64_t first) const {
    const int whole = count / kWide * kWide;
    for (int i = 0; i < whole; i += kWide) part(to + i, from + i, kWide, first + i);
    if (whole < count) part(to + whole, from + whole, count - whole, first + whole);
  }
  SNN_HD void part(S* __restrict to, const X* __restrict from, int many, int64_t first) const {
    if constexpr (!E::whole || sizeof(X) == 1) {
      if (many == kWide) {
        if constexpr (std::is_same_v<X, S>) store(to, load(from), false), store(to + kWidth<S>, load(from + kWidth<S>), false);
        else
          for (int i = 0; i < kWide; ++i) to[i] = wide(from[i]);
      } else {
        for (int i = 0; i < many; ++i) to[i] = wide(from[i]);
        std::fill_n(to + many, kWide - many, S(0));
      }
    } else {
      alignas(64) float value[kWide] = {};
      const float* u = p_.per_unit;
      if (many == kWide) std::copy_n(from, kWide, value);
      else std::copy_n(from, many, value);
      if (p_.by_channel)
        for (int i = 0; i < many; ++i) value[i] *= u[first + i];
      const F32 one = splat<F32>(p_.by_channel ? 1.0f : u[0]);
      for (int i = 0; i < kWide; i += kWidth<float>) store(to + i, rounded(load(value + i) * one), false);
    }
  }
  static S wide(X x) {
    if constexpr (sizeof(X) == 1) return S(int32_t(x));
    else return S(x);
  }

  template <bool shared, bool chosen>
  void strip() {
    if (width_ > kWidth<S>) places<2, shared, chosen>();
    else places<1, shared, chosen>();
  }

  // All places of the block, of K vectors of outputs.
  template <int K, bool shared, bool chosen>
  void places() {
    S* y = static_cast<S*>(p_.y) + ((image_ * p_.Ho + first_) * p_.Wo) * p_.O + o_;
    for (int64_t row = 0; row < rows_; ++row) {
      int64_t column = 0;
      for (; column + 4 <= p_.Wo; column += 4) beside<K, 4, shared, chosen>(y + (row * p_.Wo + column) * p_.O, row, column);
      for (; column < p_.Wo; ++column) beside<K, 1, shared, chosen>(y + (row * p_.Wo + column) * p_.O, row, column);
    }
  }

  // J places side by side.
  template <int K, int J, bool shared, bool chosen>
  SNN_HD void beside(S* y, int64_t row, int64_t column) const {
    using V = Lane<S>;
    const auto& r = p_.rule;
    V total[J][K];
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) total[j][k] = load(bias_ + strip_ * kWide + k * kWidth<S>);
    const int64_t step = r.stride_x * pitch_;
    // Inputs of one row that lie side by side.
    const int64_t next = shared ? 1 : kWide, runs = r.dilation_x == 1 && pitch_ == p_.C * next ? 1 : p_.KX, length = p_.KX * p_.C / runs;
    for (int64_t ky = 0; ky < p_.KY; ++ky) {
      const int64_t in_y = (first_ + row) * r.stride_y - r.padding_y + ky * r.dilation_y;
      if (in_y < 0 || in_y >= p_.H) continue;
      const S* input = spread_ + ((in_y - in_first_) * b_.columns + column * r.stride_x) * pitch_;
      const S* weight = weights_ + (strip_ * p_.KY + ky) * p_.KX * p_.C * kWide;
      for (int64_t run = 0; run < runs; ++run, input += r.dilation_x * pitch_ - p_.C * next)
        for (int64_t c = 0; c < length; ++c, input += next, weight += kWide) {
#pragma GCC unroll 8
          for (int k = 0; k < K; ++k) {
            const V w = load(weight + k * kWidth<S>);
#pragma GCC unroll 8
            for (int j = 0; j < J; ++j) {
              const S* at = input + j * step + (k ? second_ : 0);
              const V one = shared ? splat<V>(*at) : load(at), sum = E::add(total[j][k], one, w);
              if constexpr (chosen) total[j][k] = where(one != 0, sum, total[j][k]);
              else total[j][k] = sum;
            }
          }
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) leave<K>(y + j * p_.O, total[j]);
  }

  template <int K>
  SNN_HD void leave(S* y, Lane<S> (&total)[K]) const {
    if constexpr (E::whole) {
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k)
        total[k] = reinterpret_cast<Lane<S>>(E::current(converted(total[k]), load(scale_ + strip_ * kWide + k * kWidth<S>)));
    }
    if (width_ == K * kWidth<S>) {
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) store(y + k * kWidth<S>, total[k], false);
    } else {
      alignas(64) S all[K * kWidth<S>];
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) store(all + k * kWidth<S>, total[k], false);
      std::copy_n(all, width_, y);
    }
  }
};

}  // namespace snn
