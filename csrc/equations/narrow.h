// How much of an equation's rule a kernel is compiled for.
#pragma once

namespace snn::inline SNN_ISA {

// Nothing; the rule that nearly every launch has; the rules of training too. What is known when compiling vanishes from the inner loop, but each
// combination is a kernel of its own.
enum class Narrow : int { none, plain, trained };

}  // namespace snn
