// A borrowed array: pointer, shape, device. Row-major and contiguous always; who owns the memory stays outside.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace screening {

enum class Device { cpu, cuda };

template <class T>
struct View {
  T* data = nullptr;
  std::array<std::int64_t, 3> shape{};
  Device device = Device::cpu;
  int device_index = 0;

  std::int64_t rows() const { return shape[0]; }
  T& operator[](std::int64_t i) const { return data[i]; }
};

template <class T, class U>
bool on_one_device(const View<T>& one, const View<U>& other) {
  return one.device == other.device && (one.device == Device::cpu || one.device_index == other.device_index);
}

}  // namespace screening
