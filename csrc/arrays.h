// Checks arrays at the Python border: dtype, dimensions, C order. ValueError when they do not fit.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace slipstream {

using AnyArray = nanobind::ndarray<nanobind::ro>;

inline void check_contiguous(const AnyArray& array, const std::string& name) {
  std::int64_t expected = 1;
  for (std::size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) > 1 && array.stride(i) != expected) {
      throw std::invalid_argument(name + " must be contiguous in C order");
    }
    expected *= static_cast<std::int64_t>(array.shape(i));
  }
}

template <class T>
const T* array_data(const AnyArray& array, std::size_t dimensions, const std::string& name) {
  if (array.device_type() != nanobind::device::cpu::value) {
    throw std::invalid_argument(name + " must be in the processor's memory");
  }
  if (array.dtype() != nanobind::dtype<T>()) {
    throw std::invalid_argument(name + " has the wrong dtype");
  }
  if (array.ndim() != dimensions) {
    throw std::invalid_argument(name + " must have " + std::to_string(dimensions) +
                                " dimensions, not " + std::to_string(array.ndim()));
  }
  check_contiguous(array, name);
  return static_cast<const T*>(array.data());
}

inline std::int64_t extent(const AnyArray& array, std::size_t dimension) {
  return static_cast<std::int64_t>(array.shape(dimension));
}

// An extent that must fit an int.
inline int count_of(const AnyArray& array, std::size_t dimension, const std::string& name) {
  if (array.shape(dimension) > static_cast<std::size_t>(INT32_MAX)) {
    throw std::invalid_argument(name + " is too long");
  }
  return static_cast<int>(array.shape(dimension));
}

}  // namespace slipstream
