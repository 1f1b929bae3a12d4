// Scratch memory that grows and is never cleared: what was in it is lost when it grows.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

#include "runtime/level.hpp"

namespace screening::SCREENING_LEVEL {

template <class T>
class Buffer {
  static_assert(std::is_trivial_v<T>);

 public:
  T* reserve(std::size_t size) {
    if (size > size_) {
      size_ = size + size / 2;
      data_.reset(new T[size_]);
    }
    return data_.get();
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }

 private:
  std::unique_ptr<T[]> data_;
  std::size_t size_ = 0;
};

}  // namespace screening::SCREENING_LEVEL
