// A neuron's per-neuron numbers. An equation with one parameter takes it as theta, a lane; one with more takes them together, theta first.
#pragma once
#include <type_traits>

#include "../host_device.h"

namespace snn::inline SNN_ISA {

template <class V, int K>
struct Parameters {
  V e[K];
};

// The type in which an equation E takes its parameters, and in which E gives its share of their gradient.
template <class E, class V>
using Own = std::conditional_t<E::parameters == 1, V, Parameters<V, E::parameters>>;

// The q-th parameter.
template <class V> SNN_HD V& part(V& own, int /*q*/) { return own; }
template <class V, int K> SNN_HD V& part(Parameters<V, K>& own, int q) { return own.e[q]; }

}  // namespace snn
