// Sizes that engines and op files share.
#pragma once
#include <cstdint>

namespace snn {

constexpr int kUnit = 32;                  // neurons per unit of work: one word of `bits`, in every instruction set
constexpr int kTile = 4096;                // elements per pass of the element-wise engine
constexpr int64_t kStreamBytes = 8 << 20;  // larger results in fp32 and int8 are written past the cache, which they would fill

}  // namespace snn
