// The cuda:: twins of a build without a CUDA compiler: they say how to get them.
#include <stdexcept>

#include "kernels.hpp"

namespace screening::cuda {
namespace {

[[noreturn]] void absent() {
  throw std::runtime_error(
      "this build has no CUDA kernels: put nvcc on PATH and rebuild with `pip install . -C "
      "cmake.define.SCREENING_CUDA=ON`,"
      " or pass arrays on the CPU");
}

}  // namespace

void neighbor_count(const CrystalBatch&, const NeighborRule&, const NeighborRows&, void*) { absent(); }
void neighbor_fill(const CrystalBatch&, double, const NeighborEdges&, void*) { absent(); }
int device_count() { return 0; }

}  // namespace screening::cuda
