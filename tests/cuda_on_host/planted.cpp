// A kernel with a fault, run as the CUDA column is on the host: the sanitizers must see it. `planted none|store|load|shift`.
#include <cuda_runtime.h>

#include <memory>
#include <string>

__global__ void kernel(const float* x, float* y, int N, int beyond_x, int beyond_y, int by) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= N) return;
  const float other = __shfl_xor_sync(~0u, x[i + beyond_x], 1);
  __stcs(y + i + beyond_y, other + float(1 << by));
}

int main(int, char** argument) {
  const std::string fault = argument[1];
  const int N = 96;
  std::unique_ptr<float[]> x(new float[N]()), y(new float[N]());
  host::launch(kernel, 3, 32, x.get(), y.get(), N, fault == "load", fault == "store", fault == "shift" ? 40 : 1);
  std::printf("%g\n", double(y[0]));
}
