// Element types of x and of the spikes in memory, and the accumulator of each. `half` and `bfloat` come from the lane header
// (engines/cpu/simd.h, engines/cuda/lane.h).
#pragma once
#include "params.h"

namespace snn::inline SNN_ISA {

template <class X> struct Of { using type = X; };

template <Dtype d> struct ElementOf;
template <> struct ElementOf<Dtype::f32> : Of<float> {};
template <> struct ElementOf<Dtype::f16> : Of<half> {};
template <> struct ElementOf<Dtype::bf16> : Of<bfloat> {};
template <> struct ElementOf<Dtype::f64> : Of<double> {};

template <class X> struct AccOf { using type = float; };
template <> struct AccOf<double> { using type = double; };
template <class X> using Acc = typename AccOf<X>::type;

// The element type of the spikes, by their form.
template <Spikes kind, class X> struct Element { using type = X; };
template <class X> struct Element<Spikes::int8, X> { using type = int8_t; };
template <class X> struct Element<Spikes::bits, X> { using type = uint32_t; };
template <class X> struct Element<Spikes::count, X> { using type = int32_t; };

template <class F> inline void with_dtype(Dtype d, F&& f) {
  switch (d) {
    case Dtype::f32: return f(Of<float>{});
    case Dtype::f16: return f(Of<half>{});
    case Dtype::bf16: return f(Of<bfloat>{});
    case Dtype::f64: return f(Of<double>{});
  }
}

}  // namespace snn
