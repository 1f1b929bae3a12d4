// Arrays from any library that speaks DLPack (NumPy, torch, CuPy), borrowed as View<T> without a copy.
// The structs are the published DLPack 1.0 binary interface.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include "runtime/view.hpp"

namespace screening {

namespace dlpack {

struct Tensor {
  void* data;
  std::int32_t device_type;
  std::int32_t device_id;
  std::int32_t rank;
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

struct Versioned {
  std::uint32_t major, minor;
  void* context;
  void (*deleter)(Versioned*);
  std::uint64_t flags;
  Tensor tensor;
};

inline constexpr std::uint64_t kReadOnly = 1;

template <class T>
constexpr std::uint8_t code_of() {
  if constexpr (std::is_same_v<std::remove_const_t<T>, bool>) {
    return 6;
  } else if constexpr (std::is_floating_point_v<T>) {
    return 2;
  } else {
    return std::is_signed_v<T> ? 0 : 1;
  }
}

}  // namespace dlpack

inline constexpr std::int64_t kAny = -1;

// Holds the producer's capsule while the view is used.
template <class T>
class Borrowed {
 public:
  // `columns`: the extents after the first that the array must have, kAny for any; fewer than two for lower rank.
  Borrowed(const pybind11::object& array, const char* name, std::initializer_list<std::int64_t> columns = {}) {
    namespace py = pybind11;
    if (!py::hasattr(array, "__dlpack__")) {
      throw py::type_error(std::string(name) + ": expected an array that supports DLPack, got " +
                           py::str(py::type::of(array)).cast<std::string>());
    }
    const auto device = array.attr("__dlpack_device__")().cast<std::pair<int, int>>();
    const py::tuple version = py::make_tuple(1, 0);
    // Kernels run on the stream that is current, so the producer need not wait for one (-1).
    capsule_ = device.first == kCuda
                   ? array.attr("__dlpack__")(py::arg("max_version") = version, py::arg("stream") = -1)
                   : array.attr("__dlpack__")(py::arg("max_version") = version);
    auto* versioned = static_cast<dlpack::Versioned*>(PyCapsule_GetPointer(capsule_.ptr(), "dltensor_versioned"));
    if (versioned == nullptr) {
      throw py::error_already_set();
    }
    if (!std::is_const_v<T> && (versioned->flags & dlpack::kReadOnly) != 0) {
      throw py::value_error(std::string(name) + ": the array is read-only, but results are written to it");
    }
    adopt(versioned->tensor, name, columns);
  }

  const View<T>& view() const { return view_; }

 private:
  void adopt(const dlpack::Tensor& tensor, const char* name, std::initializer_list<std::int64_t> columns) {
    namespace py = pybind11;
    if (tensor.code != dlpack::code_of<T>() || tensor.bits != 8 * sizeof(T) || tensor.lanes != 1) {
      throw py::type_error(std::string(name) + ": wrong dtype (type code " + std::to_string(tensor.code) + ", " +
                           std::to_string(tensor.bits) + " bits), expected code " +
                           std::to_string(dlpack::code_of<T>()) + ", " + std::to_string(8 * sizeof(T)) + " bits");
    }
    bool fits = tensor.rank == static_cast<std::int32_t>(columns.size()) + 1;
    std::string want = "(n", got = "(";
    std::int64_t stride = 1;
    for (std::int64_t extent : columns) {
      want += extent == kAny ? ", n" : ", " + std::to_string(extent);
    }
    for (std::int32_t axis = 0; axis < tensor.rank; ++axis) {
      got += (axis ? ", " : "") + std::to_string(tensor.shape[axis]);
      fits =
          fits && (axis == 0 || columns.begin()[axis - 1] == kAny || tensor.shape[axis] == columns.begin()[axis - 1]);
    }
    if (!fits) {
      throw py::value_error(std::string(name) + ": expected shape " + want + "), got " + got + ")");
    }
    std::int64_t elements = 1;
    for (std::int32_t axis = 0; axis < tensor.rank; ++axis) {
      elements *= tensor.shape[axis];
    }
    for (std::int32_t axis = tensor.rank - 1; axis >= 0; --axis) {
      if (elements != 0 && tensor.strides != nullptr && tensor.shape[axis] > 1 && tensor.strides[axis] != stride) {
        throw py::value_error(std::string(name) + ": the array must be contiguous in row-major order");
      }
      view_.shape[static_cast<std::size_t>(axis)] = tensor.shape[axis];
      stride *= tensor.shape[axis];
    }
    if (tensor.device_type != 1 && tensor.device_type != 2 && tensor.device_type != 3 && tensor.device_type != 13) {
      throw py::value_error(std::string(name) + ": expected an array on the CPU or on a CUDA device");
    }
    view_.data = reinterpret_cast<T*>(static_cast<char*>(tensor.data) + tensor.byte_offset);
    view_.device = tensor.device_type == 2 || tensor.device_type == 13 ? Device::cuda : Device::cpu;
    view_.device_index = tensor.device_id;
  }

  static constexpr int kCuda = 2;

  pybind11::object capsule_;
  View<T> view_;
};

}  // namespace screening
