// Compares the instruction sets of the CPU kernels with each other, bit for bit, without torch: static, so that it also runs as the only
// program of an emulated machine (run.sh). Prints a line per kernel and "ok" or "FAILED"; exits with 1 on a difference.
//
//   isas [cases]
#include <immintrin.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "engines/cpu/kernels.h"
#include "engines/cpu/tiles.h"

using namespace snn;

namespace {

const Kernels* const kTables[] = {&kernels_v4, &kernels_v3, &kernels_baseline};
constexpr int64_t kSizes[][2] = {{1, 5}, {3, 32}, {7, 37}, {18, 300}, {9, 2500}, {131, 70}, {64, 256}};

std::mt19937_64 rng(7);
int pick(int n) { return int(rng() % uint64_t(n)); }

size_t size_of(Dtype d) { return d == Dtype::f64 ? 8 : d == Dtype::f32 ? 4 : 2; }

// n numbers of dtype d round 0.3, a third of them multiples of 1/8 (ties), a few infinite or NaN.
std::vector<char> numbers(Dtype d, int64_t n, double low = -2.2, double high = 2.8, bool odd = true) {
  std::vector<char> bytes(size_of(d) * n);
  std::uniform_real_distribution<double> uniform(low, high);
  for (int64_t i = 0; i < n; ++i) {
    double x = uniform(rng);
    if (pick(3) == 0) x = std::round(x * 8) / 8;
    if (odd && pick(4000) == 0) x = pick(2) ? std::nan("") : (pick(2) ? HUGE_VAL : -HUGE_VAL);
    const float f = float(x);
    const _Float16 h = _Float16(x);
    uint32_t word;
    std::memcpy(&word, &f, 4);
    const uint16_t b = uint16_t(word >> 16);
    const void* from = d == Dtype::f64   ? static_cast<const void*>(&x)
                       : d == Dtype::f32 ? static_cast<const void*>(&f)
                       : d == Dtype::f16 ? static_cast<const void*>(&h)
                                         : static_cast<const void*>(&b);
    std::memcpy(bytes.data() + i * size_of(d), from, size_of(d));
  }
  return bytes;
}

bool is_nan(Dtype d, const char* p) {
  if (d == Dtype::f64) {
    double x;
    std::memcpy(&x, p, 8);
    return x != x;
  }
  if (d == Dtype::f32) {
    float x;
    std::memcpy(&x, p, 4);
    return x != x;
  }
  uint16_t b;
  std::memcpy(&b, p, 2);
  const uint16_t top = d == Dtype::f16 ? 0x7c00 : 0x7f80;
  return (b & top) == top && (b & ~(top | 0x8000));
}

// The first element in which a and b differ, NaN with NaN, or -1.
int64_t differ(Dtype d, const std::vector<char>& a, const std::vector<char>& b) {
  const size_t each = size_of(d);
  for (size_t i = 0; i < a.size(); i += each)
    if (std::memcmp(&a[i], &b[i], each) && !(is_nan(d, &a[i]) && is_nan(d, &b[i]))) return int64_t(i / each);
  return -1;
}

struct Result {
  Dtype dtype;
  std::vector<char> bytes;
};

// Every result starts as 0x7f bytes, and so does the room behind it, which must stay so.
constexpr size_t kRoom = 256;
char* room(std::vector<Result>& results, Dtype d, int64_t n) {
  results.push_back({d, std::vector<char>(size_of(d) * n + kRoom, 0x7f)});
  return results.back().bytes.data();
}

// fp32 -> fp16 in software: this function is compiled for the baseline, which has no instruction for it.
__attribute__((noinline)) uint16_t half_of(float x) {
  const _Float16 h = _Float16(x);
  uint16_t bits;
  std::memcpy(&bits, &h, 2);
  return bits;
}

// True if the processor's own fp32 -> fp16, stored to memory as the kernels store it, rounds to nearest, ties to even. That of Bochs 2.7 takes some
// ties to odd: then fp16 results, which the baseline rounds in software, are compared between v4 and v3 alone.
__attribute__((target("avx2,f16c"))) bool halves_round_right() {
  if (!supported("x86-64-v3")) return true;
  std::uniform_real_distribution<float> uniform(-2, 2);
  int wrong = 0;
  for (int i = 0; i < 20000; ++i) {
    float x[8];
    uint16_t machine[8];
    for (float& e : x) e = uniform(rng);
    asm volatile("vmovups %1, %%ymm0\n\tvcvtps2ph $8, %%ymm0, %0" : "=m"(machine) : "m"(x) : "xmm0");
    for (int j = 0; j < 8; ++j) {
      const uint16_t right = half_of(x[j]);
      if (machine[j] != right && !wrong++) std::printf("vcvtps2ph of this processor is wrong: %a gives %04x, not %04x\n", x[j], machine[j], right);
    }
  }
  if (wrong) std::printf("vcvtps2ph: %d of 160000 wrong; fp16 results of baseline are not compared\n", wrong);
  return !wrong;
}
bool halves_right = true;

// Runs `launch` on each table that this processor has; 0 where all agree.
template <class F>
int compare(const char* kernel, int number, F&& launch) {
  std::vector<Result> first;
  int bad = 0;
  const char* name = nullptr;
  for (const Kernels* k : kTables) {
    if (!supported(k->isa)) continue;
    std::vector<Result> got = launch(*k);
    for (size_t r = 0; r < got.size(); ++r) {
      const auto& b = got[r].bytes;
      for (size_t i = b.size() - kRoom; i < b.size(); ++i) bad += b[i] != 0x7f;
      if (!name || (!halves_right && got[r].dtype == Dtype::f16 && k == &kernels_baseline)) continue;
      const int64_t at = differ(got[r].dtype, first[r].bytes, b);
      if (at < 0) continue;
      ++bad;
      const size_t each = size_of(got[r].dtype);
      uint64_t one = 0, other = 0;
      std::memcpy(&one, &first[r].bytes[at * each], each);
      std::memcpy(&other, &b[at * each], each);
      std::printf("%s case %d result %zu dtype %d element %lld: %s %llx, %s %llx\n", kernel, number, r, int(got[r].dtype), (long long)at, name,
                  (unsigned long long)one, k->isa, (unsigned long long)other);
    }
    if (!name) first = std::move(got), name = k->isa;
  }
  return bad;
}

// In the order of class Rule of snnfast/equations/neurons/iaf.py.
Rule random_rule() {
  const int negative = pick(3);
  const bool caps = negative != 0;
  const double low = caps ? -2.0 : 0.0, high = caps ? 3.0 : HUGE_VAL;
  if (pick(3) == 0) return {{0, 0, 0, 0.0, double(negative), low, high, 0, 1.3, 0, 0, 0.0, 0.0, 0, 0}};
  const auto flag = [] { return double(pick(2) == 0); };
  return {{flag(), flag(), flag(), 0.125, double(negative), low, high, double(pick(5)), 1.3, flag(), double(caps && pick(3) == 0),
           pick(3) ? 0.0 : 0.375, pick(3) ? 0.0 : 2.7, flag(), flag()}};
}

int iaf_case(int number) {
  const auto [T, N] = kSizes[pick(std::size(kSizes))];
  const Dtype d = Dtype(pick(4)), acc = d == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  const bool constant = pick(3) == 0, carried = pick(2), masked = pick(2);
  const Rule rule = random_rule();
  const bool is_signed = rule.of[4] != 0, remembers = rule.of[10] != 0;
  const bool unit = pick(3) == 0;
  const auto memory = numbers(acc, N);
  const int64_t channels = N % 5 == 0 ? 5 : N % 4 == 0 ? 4 : 1, C = (int64_t[]){1, channels, N}[pick(3)];
  const auto x = numbers(d, constant ? N : T * N), ds = numbers(d, T * N), dv = numbers(acc, N), v = numbers(acc, N);
  const auto theta = numbers(acc, C, 0.4, 1.5, false);
  std::vector<int32_t> count(N);
  std::vector<char> mask(N);
  for (auto& c : count) c = pick(6) - 2;
  for (auto& m : mask) m = pick(3) > 0;
  Multistep p{d,
              x.data(),
              constant ? 0 : N,
              theta.data(),
              carried ? v.data() : nullptr,
              !carried    ? nullptr
              : remembers ? static_cast<const void*>(memory.data())
                          : count.data(),
              masked ? reinterpret_cast<const bool*>(mask.data()) : nullptr,
              T,
              N,
              C,
              C == N ? 1 : N / C,
              0.3,
              rule,
              is_signed,
              remembers};
  const int64_t words = (N + kUnit - 1) / kUnit, planes = is_signed ? 2 : 1;
  int bad = 0;
  for (const Spikes kind : {Spikes::scaled, Spikes::int8, Spikes::bits, Spikes::count})
    if (!(remembers && kind == Spikes::count))
      bad += compare("iaf_fwd", number, [&](const Kernels& k) {
        std::vector<Result> r;
        MultistepFwd f{};
        static_cast<Multistep&>(f) = p;
        f.spikes = kind;
        f.unit = unit;
        f.s = kind == Spikes::scaled ? room(r, d, T * N)
              : kind == Spikes::int8 ? room(r, Dtype::f32, (T * N + 3) / 4)
                                     : room(r, Dtype::f32, kind == Spikes::bits ? planes * T * words : N);
        f.v_end = room(r, acc, N);
        f.count_end = room(r, remembers ? acc : Dtype::f32, N);
        k.iaf_fwd(f, 0, N);
        return r;
      });
  bad += compare("iaf_bwd", number, [&](const Kernels& k) {
    std::vector<Result> r;
    MultistepBwd b{};
    static_cast<Multistep&>(b) = p;
    b.constant = constant && T > 1;
    b.ds = ds.data();
    b.ds_stride = N;
    b.dv = carried ? dv.data() : nullptr;
    b.dx = room(r, d, b.constant ? N : T * N);
    b.dv_start = room(r, acc, N);
    b.dtheta = room(r, acc, N);
    k.iaf_bwd(b, 0, N);
    return r;
  });
  return bad;
}

int conv_case(int number) {
  const Dtype d = pick(2) ? Dtype::f32 : Dtype::f64;
  const int64_t sizes[] = {1, 3, 10, 33, 64, 70, 130}, groups = pick(3) ? 1 : 1 + pick(5), R = 1 + pick(40), C = pick(5) ? sizes[pick(7)] : 300,
                O = groups * sizes[pick(7)];
  const int64_t KY = 1 + pick(3), KX = 1 + pick(3), H = KY + pick(5), W = KX + pick(5);
  const ConvRule rule{1 + pick(2), 1 + pick(2), pick(3), pick(3), 1, 1};
  const auto w = numbers(d, KY * KX * C * O), bias = numbers(d, O);
  const int64_t N = R * H * W * groups * C;
  auto x = numbers(d, N);
  for (int64_t i = 0; i < N; ++i)
    if (pick(4)) std::memset(x.data() + i * size_of(d), 0, size_of(d));
  Gather p{d,
           x.data(),
           w.data(),
           pick(2) ? bias.data() : nullptr,
           nullptr,
           R,
           H,
           W,
           C,
           KY,
           KX,
           O,
           (H + 2 * rule.padding_y - KY) / rule.stride_y + 1,
           (W + 2 * rule.padding_x - KX) / rule.stride_x + 1,
           groups,
           rule};
  const Cut cut(p, 1 + pick(4));
  return compare("conv_fwd", number, [&](const Kernels& k) {
    std::vector<Result> r;
    Gather f = p;
    f.y = room(r, d, R * p.Ho * p.Wo * O);
    void* scratch = std::aligned_alloc(64, cut.bytes());
    k.conv_fwd(f, cut, 0, cut.units(), scratch);
    std::free(scratch);
    return r;
  });
}

int exact_case(int number) {
  const int64_t sizes[] = {1, 3, 10, 33, 64, 70, 130}, groups = pick(3) ? 1 : 1 + pick(5), R = 1 + pick(40), C = pick(5) ? sizes[pick(7)] : 300,
                O = groups * sizes[pick(7)];
  const int64_t KY = 1 + pick(3), KX = 1 + pick(3), H = KY + pick(5), W = KX + pick(5), N = R * H * W * groups * C;
  const ConvRule rule{1 + pick(2), 1 + pick(2), pick(3), pick(3), 1, 1};
  const int most = pick(2) ? 1 : 127, least = pick(2) ? 0 : -most;
  const bool bytes = pick(2), by_channel = pick(2);
  const auto per_unit = numbers(Dtype::f32, by_channel ? groups * C : 1, 0.4, 1.5, false), scale = numbers(Dtype::f32, O);
  const auto* units = reinterpret_cast<const float*>(per_unit.data());
  std::vector<int32_t> w(KY * KX * C * O), bias(O);
  for (auto& n : w) n = pick(1 << 24) - (1 << 23);
  for (auto& n : bias) n = pick(1 << 30) - (1 << 29);
  std::vector<int8_t> s(N);
  std::vector<float> x(N);
  for (int64_t i = 0; i < N; ++i)
    if (!pick(4)) {
      s[i] = int8_t(least + pick(most - least + 1));
      x[i] = float(s[i]) / units[by_channel ? i % (groups * C) : 0];
    }
  Gather p{};
  p.bytes = bytes, p.by_channel = by_channel;
  p.x = bytes ? static_cast<const void*>(s.data()) : x.data();
  p.w = w.data(), p.bias = bias.data(), p.per_unit = units, p.scale = reinterpret_cast<const float*>(scale.data());
  p.R = R, p.H = H, p.W = W, p.C = C, p.KY = KY, p.KX = KX, p.O = O, p.groups = groups, p.rule = rule;
  p.Ho = (H + 2 * rule.padding_y - KY) / rule.stride_y + 1, p.Wo = (W + 2 * rule.padding_x - KX) / rule.stride_x + 1;
  const Cut cut(p, 1 + pick(4));
  return compare("exact_fwd", number, [&](const Kernels& k) {
    std::vector<Result> r;
    Gather f = p;
    f.y = room(r, Dtype::f32, R * p.Ho * p.Wo * O);
    void* scratch = std::aligned_alloc(64, cut.bytes());
    k.exact_fwd(f, cut, 0, cut.units(), scratch);
    std::free(scratch);
    return r;
  });
}

int rows_case(int number) {
  const int64_t columns[] = {1, 5, 16, 33, 64, 197, 700}, T = 1 + pick(3), R = 1 + pick(9), C = columns[pick(7)];
  const Dtype d = pick(2) ? Dtype::f32 : Dtype::f64;
  const auto x = numbers(d, T * R * C), w = numbers(d, C), b = numbers(d, C), total = numbers(d, R * C), last = numbers(d, R * C);
  const bool norm = pick(2), weighted = pick(2);
  return compare(norm ? "layer_norm_out" : "softmax_out", number, [&](const Kernels& k) {
    std::vector<Result> r;
    Rows p{d, x.data(), nullptr, nullptr, weighted ? w.data() : nullptr, weighted ? b.data() : nullptr, nullptr, T, R, C, {{0.3}}};
    p.y = room(r, d, T * R * C), p.total = room(r, d, R * C), p.last = room(r, d, R * C);
    std::memcpy(p.total, total.data(), total.size());
    std::memcpy(p.last, last.data(), last.size());
    norm ? k.layer_norm_out(p, 0, R) : k.softmax_out(p, 0, R);
    return r;
  });
}

int cos_case(int number) {
  const auto [T, N] = kSizes[pick(std::size(kSizes))];
  const Dtype d = Dtype(pick(4)), acc = d == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  const bool constant = pick(3) == 0;
  const auto x = numbers(d, constant ? N : T * N), theta = numbers(acc, N, 0.4, 1.5, false);
  const int64_t C = pick(2) ? N : 1;
  Calibrate p{d, x.data(), constant ? 0 : N, theta.data(), T, N, C, 1, 0.5, {{double(pick(2) == 0), pick(2) ? 1.75 : HUGE_VAL}}, nullptr};
  return compare("cos_fwd", number, [&](const Kernels& k) {
    std::vector<Result> r;
    Calibrate f = p;
    f.v0_out = room(r, acc, N);
    k.cos_fwd(f, 0, N);
    return r;
  });
}

int qcfs_case(int number) {
  const int64_t shapes[][2] = {{1, 1}, {5, 40}, {600, 1}, {10, 4}, {3, 3000}};
  const auto [C, inner] = shapes[pick(5)];
  const Dtype d = Dtype(pick(4)), acc = d == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  const int64_t N = C == 1 ? 6007 : C * inner * 3;
  const auto x = numbers(d, N), dy = numbers(d, N), theta = numbers(acc, C, 0.4, 1.5, false);
  const Elementwise p{d, x.data(), theta.data(), N, C, inner, {{double(1 + pick(16)), double(pick(3))}}};
  const Tiles tiles(p);
  int bad = compare("qcfs_fwd", number, [&](const Kernels& k) {
    std::vector<Result> r;
    ElementwiseFwd f{p, nullptr};
    f.y = room(r, d, N);
    k.qcfs_fwd(f, 0, N);
    return r;
  });
  bad += compare("qcfs_bwd", number, [&](const Kernels& k) {
    std::vector<Result> r;
    ElementwiseBwd b{p, dy.data(), nullptr, nullptr, nullptr};
    b.dx = room(r, d, N);
    b.partial = room(r, acc, tiles.numbers);
    k.qcfs_bwd(b, 0, tiles.many);
    return r;
  });
  return bad;
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 400;
  std::printf("instruction sets:");
  for (const char* isa : kIsas) std::printf(" %s%s", isa, supported(isa) ? "" : " (not on this processor)");
  std::printf("\n");
  std::fflush(stdout);
  halves_right = halves_round_right();
  int bad = 0;
  for (int i = 0; i < cases; ++i) {
    bad += i % 16 == 10 ? exact_case(i)
           : i % 4 == 3 ? qcfs_case(i)
           : i % 8 == 6 ? cos_case(i)
           : i % 8 == 2 ? conv_case(i)
           : i % 8 == 4 ? rows_case(i)
                        : iaf_case(i);
    if (i % 50 == 49) std::printf("%d cases, %d differences\n", i + 1, bad), std::fflush(stdout);
  }
  std::printf("%d cases: %s\n", cases, bad ? "FAILED" : "ok");
  std::fflush(stdout);
  if (getpid() == 1)
    for (;;) sleep(1000);  // the first process of a machine must not end
  return bad != 0;
}
