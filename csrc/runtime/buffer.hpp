// Scratch memory that grows and is never cleared: what was in it is lost when it is reserved anew. Where there is no
// memory it stays as it was, so that whoever kept it may go on with less.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

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
  // Makes room for so many values and keeps the first `kept`.
  void enlarge(std::size_t kept, std::size_t size) {
    std::unique_ptr<T[]> larger(new T[size]);
    std::copy_n(data_.get(), kept, larger.get());
    data_ = std::move(larger);
    size_ = size;
  }
  std::size_t bytes() const { return size_ * sizeof(T); }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }

 private:
  std::unique_ptr<T[]> data_;
  std::size_t size_ = 0;
};

}  // namespace screening::SCREENING_LEVEL
