// Functions of rows over time on the CPU: out_t = f(X_t) - f(X_(t-1)), X_t = x_1 + ... + x_t. A function F gives apply on a Row.
//
// A row and its partial sums lie in the first cache level; columns are on the lanes. The sum is the tree of snnfast/engines/reference/rows.py.
#pragma once
#include <algorithm>

#include "../../params.h"
#include "elementwise.h"
#include "simd.h"

namespace snn::inline SNN_ISA {

template <class T>
class Row {
 public:
  using S = T;
  using V = Lane<S>;
  Row(int columns, const S* w, const S* b) : C_(columns), w_(w), b_(b) {
    for (padded_ = kWidth<S>; padded_ < C_; padded_ *= 2) {}
    std::fill_n(a, padded_, S(0));
  }
  alignas(64) S a[kMostColumns];

  int columns() const { return C_; }

  V largest() const {
    S most = a[0];
    int i = 0;
    if (C_ >= kWidth<S>) {
      V m = load(a);
      for (; i + kWidth<S> <= C_; i += kWidth<S>) {
        const V x = load(a + i);
        m = where(x > m, x, m);
      }
      for (int j = 0; j < kWidth<S>; ++j) most = m[j] > most ? m[j] : most;
    }
    for (; i < C_; ++i) most = a[i] > most ? a[i] : most;
    return splat<V>(most);
  }

  template <class F>
  V total(const F& f) {
    constexpr int W = kWidth<S>;
    V sum;
    if (padded_ == W) {
      sum = f(load(a));
    } else {
      int half = padded_ / 2;
      for (int i = 0; i < half; i += W) store(part_ + i, f(load(a + i)) + f(load(a + half + i)), false);
      for (half /= 2; half >= W; half /= 2)
        for (int i = 0; i < half; i += W) store(part_ + i, load(part_ + i) + load(part_ + half + i), false);
      sum = load(part_);
    }
    alignas(64) S one[W];
    store(one, sum, false);
    for (int half = W / 2; half; half /= 2)
      for (int j = 0; j < half; ++j) one[j] += one[j + half];
    return splat<V>(one[0]);
  }

  // Replaces every number of the row by f of the number. The padding of the row stays 0.
  template <class F>
  void each(const F& f) {
    for (int i = 0; i < C_; i += kWidth<S>) store(a + i, f(load(a + i)), false);
    fill_up();
  }

  template <class F>
  void each_with(const F& f) {
    lanes<S>(C_, [&](int i, int many) __attribute__((always_inline)) {
      const V w = w_ ? load_part(w_ + i, many) : splat<V>(S(1)), b = b_ ? load_part(b_ + i, many) : splat<V>(S(0));
      store(a + i, f(load(a + i), w, b), false);
    });
    fill_up();
  }

 private:
  void fill_up() {
    const int end = std::min(padded_, (C_ + kWidth<S> - 1) / kWidth<S> * kWidth<S>);
    for (int i = C_; i < end; ++i) a[i] = S(0);
  }

  int C_, padded_;
  const S *w_, *b_;
  alignas(64) S part_[kMostColumns / 2];
};

// Rows [first, end).
template <class F, class S>
void rows_range(const Rows& p, int64_t first, int64_t end) {
  const int C = int(p.C);
  const typename F::template Numbers<S> k(p.rule);
  Row<S> row(C, static_cast<const S*>(p.w), static_cast<const S*>(p.b));
  for (int64_t r = first; r < end; ++r) {
    S *total = static_cast<S*>(p.total) + r * C, *last = static_cast<S*>(p.last) + r * C;
    for (int64_t t = 0; t < p.T; ++t) {
      const S* x = static_cast<const S*>(p.x) + (t * p.R + r) * C;
      S* y = static_cast<S*>(p.y) + (t * p.R + r) * C;
      lanes<S>(C, [&](int i, int many) __attribute__((always_inline)) {
        const Lane<S> sum = load_part(total + i, many) + load_part(x + i, many);
        store_part(total + i, sum, many, false);
        store_part(row.a + i, sum, many, false);
      });
      F::template apply<S>(row, k);
      lanes<S>(C, [&](int i, int many) __attribute__((always_inline)) {
        const Lane<S> now = load_part(static_cast<const S*>(row.a) + i, many);
        store_part(y + i, now - load_part(last + i, many), many, false);
        store_part(last + i, now, many, false);
      });
    }
  }
}

template <class F>
void rows(const Rows& p, int64_t first, int64_t end) {
  if (p.dtype == Dtype::f64) rows_range<F, double>(p, first, end);
  else rows_range<F, float>(p, first, end);
}

}  // namespace snn
