// Run-time choices become template arguments: with(value, f) calls f(std::integral_constant<...>). Choices of a dtype are in dtype.h, those of one
// equation beside the equation.
#pragma once
#include <type_traits>

#include "host_device.h"
#include "params.h"

namespace snn::inline SNN_ISA {

template <auto v> using Constant = std::integral_constant<decltype(v), v>;

template <class F> inline void with(bool value, F&& f) {
  if (value) f(Constant<true>{});
  else f(Constant<false>{});
}

template <class F> inline void with(Spikes value, F&& f) {
  switch (value) {
    case Spikes::scaled: return f(Constant<Spikes::scaled>{});
    case Spikes::int8: return f(Constant<Spikes::int8>{});
    case Spikes::bits: return f(Constant<Spikes::bits>{});
    case Spikes::count: return f(Constant<Spikes::count>{});
  }
}

}  // namespace snn
