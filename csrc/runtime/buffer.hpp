// Scratch memory that grows and is never cleared: what was in it is lost when it grows. Where there is no memory it
// stays as it was, so that whoever kept it may go on with less.
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
      const std::size_t larger = size + size / 2;
      data_.reset(new T[larger]);
      size_ = larger;  // last: nobody may write where nothing was allocated
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
