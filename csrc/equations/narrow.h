// How much of an equation's rule a kernel is compiled for.
#pragma once

namespace snn::inline SNN_ISA {

// none: for no rule in particular. plain: also for the rule that nearly every launch has. trained: also for the rules of training. What is known
// at compile time vanishes from the inner loop, but each combination is one more kernel.
enum class Narrow : int { none, plain, trained };

}  // namespace snn
