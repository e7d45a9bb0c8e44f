// Max pooling on the CPU. Where each channel is an image (C = 1), the lanes are windows. Where channels lie side by side, the lanes are channels.
// The backward goes through the windows in order. For each number of the image, the gradients from its windows are added in fp32 (fp64 for fp64).
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "../../dtype.h"
#include "../../params.h"
#include "elementwise.h"
#include "simd.h"

namespace snn::inline SNN_ISA {

// For window `o`: its rows [begin, end), or columns, that lie inside the image.
struct Inside {
  int64_t begin, end;
  Inside(int64_t o, int64_t stride, int64_t padding, int64_t window, int64_t size)
      : begin(std::max<int64_t>(0, padding - o * stride)), end(std::min(window, size + padding - o * stride)) {}
};

// An array class for this instruction set alone: a class of the standard library would be one and the same for all instruction sets.
template <class T>
class Numbers {
 public:
  Numbers(int64_t size, T fill) : at_(new T[size]) { std::fill(at_, at_ + size, fill); }
  ~Numbers() { delete[] at_; }
  Numbers(const Numbers&) = delete;
  T* data() { return at_; }
  T& operator[](int64_t i) { return at_[i]; }

 private:
  T* at_;
};

// An image of one channel. Its numbers are laid out by (row % stride, column % stride), so that the k-th numbers of all windows lie as the windows
// do, in rows of pitch_ columns.
template <class S>
class PoolImage {
 public:
  explicit PoolImage(const PoolFwd& p)
      : r_(p.rule), pitch_(p.Wo + (r_.size_x - 1) / r_.stride_x), rows_(p.Ho + (r_.size_y - 1) / r_.stride_y), windows_(p.Ho * pitch_),
        size_(rows_ * pitch_ + kWidth<S>), phases_(r_.stride_y * r_.stride_x * size_, -std::numeric_limits<S>::infinity()),
        first_(windows_ + kWidth<S>, S(0)), best_(windows_ + kWidth<S>, S(0)), which_(windows_ + kWidth<S>, S(0)),
        numbers_(r_.size_y * r_.size_x, nullptr) {
    for (int64_t o = 0; o < windows_; ++o) {  // a window's first number inside of the image
      const int64_t top = std::max<int64_t>(0, r_.padding_y - o / pitch_ * r_.stride_y),
                    left = std::max<int64_t>(0, r_.padding_x - o % pitch_ * r_.stride_x);
      first_[o] = S(top * r_.size_x + left);
    }
    for (int64_t ky = 0; ky < r_.size_y; ++ky)
      for (int64_t kx = 0; kx < r_.size_x; ++kx) numbers_[ky * r_.size_x + kx] = phase(ky, kx) + ky / r_.stride_y * pitch_ + kx / r_.stride_x;
  }

  template <class M, class X>
  void run(const PoolFwd& p, const X* x, X* y, uint8_t* at) {
    for (int64_t h = 0; h < p.H && (h + r_.padding_y) / r_.stride_y < rows_; ++h) split(h + r_.padding_y, x + h * p.W, p.W);
    for (int64_t j = 0; j < windows_; j += kWidth<S>) {
      Lane<S> best = splat<Lane<S>>(-std::numeric_limits<S>::infinity()), which = load(first_.data() + j);
      for (int64_t k = 0; k < r_.size_y * r_.size_x; ++k) {
        const Lane<S> v = load(numbers_[k] + j);
        const auto is = M::better(v, best);
        best = where(is, v, best), which = where(is, splat<Lane<S>>(S(k)), which);
      }
      store(best_.data() + j, best, false);
      store(which_.data() + j, which, false);
    }
    const int64_t rows = pitch_ == p.Wo ? 1 : p.Ho, columns = pitch_ == p.Wo ? windows_ : p.Wo;
    for (int64_t o = 0; o < rows; ++o) leave(y + o * columns, at + o * columns, best_.data() + o * pitch_, which_.data() + o * pitch_, columns);
  }

 private:
  S* phase(int64_t row, int64_t column) { return phases_.data() + (row % r_.stride_y * r_.stride_x + column % r_.stride_x) * size_; }

  // Lays out one row of the image; `row` counts the rows of the padding too.
  template <class X>
  void split(int64_t row, const X* x, int64_t W) {
    if (r_.stride_x == 1) split_by<1>(row, x, W);
    else if (r_.stride_x == 2) split_by<2>(row, x, W);
    else split_by<0>(row, x, W);
  }
  // known: the stride as a constant, so that the compiler vectorises the loops; or 0.
  template <int known, class X>
  void split_by(int64_t row, const X* __restrict x, int64_t W) {
    const int64_t stride = known ? known : r_.stride_x, padding = r_.padding_x, at = row / r_.stride_y * pitch_;
    const int64_t most = std::min(W, stride * pitch_ - padding);
    for (int64_t first = 0; first < stride; ++first) {  // the columns first, first + stride, ...
      S* __restrict to = phase(row, first + padding) + at + (first + padding) / stride;
      const int64_t count = (most - first + stride - 1) / stride;
      for (int64_t i = 0; i < count; ++i) to[i] = wide(x[first + i * stride]);
    }
  }

  template <class X>
  static S wide(X x) {
    if constexpr (std::is_same_v<X, S>) return x;
    else {
      X one[kWidth<S>] = {x};
      return load(one)[0];
    }
  }

  template <class X>
  static void leave(X* __restrict y, uint8_t* __restrict at, const S* __restrict best, const S* __restrict which, int64_t count) {
    if constexpr (std::is_same_v<X, S>)
      for (int64_t j = 0; j < count; ++j) y[j] = best[j];
    else lanes<S>(int(count), [&](int i, int many) __attribute__((always_inline)) { store_part(y + i, load(best + i), many, false); });
    for (int64_t j = 0; j < count; ++j) at[j] = uint8_t(int(which[j]));
  }

  PoolRule r_;
  int64_t pitch_, rows_, windows_, size_;
  Numbers<S> phases_, first_, best_, which_;
  Numbers<const S*> numbers_;
};

// One image with its channels side by side.
template <class M, class X>
void pool_pixels(const PoolFwd& p, const X* x, X* y, uint8_t* at) {
  using S = Acc<X>;
  using V = Lane<S>;
  for (int64_t oy = 0; oy < p.Ho; ++oy)
    for (int64_t ox = 0; ox < p.Wo; ++ox, y += p.C, at += p.C) {
      const Inside rows(oy, p.rule.stride_y, p.rule.padding_y, p.rule.size_y, p.H),
          columns(ox, p.rule.stride_x, p.rule.padding_x, p.rule.size_x, p.W);
      const X* window = x + ((oy * p.rule.stride_y - p.rule.padding_y) * p.W + ox * p.rule.stride_x - p.rule.padding_x) * p.C;
      lanes<S>(int(p.C), [&](int c, int many) __attribute__((always_inline)) {
        V best = splat<V>(-std::numeric_limits<S>::infinity()), which = splat<V>(S(rows.begin * p.rule.size_x + columns.begin));
        for (int64_t ky = rows.begin; ky < rows.end; ++ky)
          for (int64_t kx = columns.begin; kx < columns.end; ++kx) {
            const V v = load_part(window + (ky * p.W + kx) * p.C + c, many);
            const auto is = M::better(v, best);
            best = where(is, v, best), which = where(is, splat<V>(S(ky * p.rule.size_x + kx)), which);
          }
        store_part(y + c, best, many, false);
        for (int j = 0; j < many; ++j) at[c + j] = uint8_t(which[j]);
      });
    }
}

// Images [first, end).
template <class M>
void pool_fwd(const PoolFwd& p, int64_t first, int64_t end) {
  with_dtype(p.dtype, [&](auto of) {
    using X = typename decltype(of)::type;
    PoolImage<Acc<X>> image(p);
    for (int64_t i = first; i < end; ++i) {
      const X* x = static_cast<const X*>(p.x) + i * p.H * p.W * p.C;
      const int64_t to = i * p.Ho * p.Wo * p.C;
      if (p.C == 1) image.template run<M>(p, x, static_cast<X*>(p.y) + to, p.at + to);
      else pool_pixels<M>(p, x, static_cast<X*>(p.y) + to, p.at + to);
    }
  });
}

template <class M>
void pool_bwd(const PoolBwd& p, int64_t first, int64_t end) {
  with_dtype(p.dtype, [&](auto of) {
    using X = typename decltype(of)::type;
    using S = Acc<X>;
    constexpr bool direct = std::is_same_v<X, S>;
    const int64_t size = p.H * p.W * p.C;
    Numbers<S> sums(direct ? 0 : size + kWidth<S>, S(0));
    int64_t places[kMostWindow + 1];
    for (int64_t k = 0; k < p.rule.size_y * p.rule.size_x; ++k) places[k] = (k / p.rule.size_x * p.W + k % p.rule.size_x) * p.C;
    for (int64_t i = first; i < end; ++i) {
      S* to = sums.data();
      if constexpr (direct) to = static_cast<X*>(p.dx) + i * size;
      std::fill(to, to + size, S(0));
      const X* dy = static_cast<const X*>(p.dy) + i * p.Ho * p.Wo * p.C;
      const uint8_t* at = p.at + i * p.Ho * p.Wo * p.C;
      for (int64_t oy = 0; oy < p.Ho; ++oy)
        for (int64_t ox = 0; ox < p.Wo; ++ox) {
          S* window = to + ((oy * p.rule.stride_y - p.rule.padding_y) * p.W + ox * p.rule.stride_x - p.rule.padding_x) * p.C;
          for (int64_t c = 0; c < p.C; ++c, ++dy, ++at) {
            S g;
            if constexpr (direct) g = *dy;
            else {
              X one[kWidth<S>] = {*dy};
              g = load(one)[0];
            }
            window[places[*at] + c] += g;
          }
        }
      if constexpr (!direct)
        lanes<S>(int(size), [&](int j, int many) __attribute__((always_inline)) {
          store_part(static_cast<X*>(p.dx) + i * size + j, load(sums.data() + j), many, false);
        });
    }
  });
}

}  // namespace snn
