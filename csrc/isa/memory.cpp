#include "isa/memory.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace slipstream {
namespace {

constexpr std::size_t kHugePage = std::size_t(2) << 20;

// Below this, rounding up to huge pages would cost more memory than it saves time.
constexpr std::size_t kHugeFrom = kHugePage;

std::size_t rounded_up(std::size_t size, std::size_t unit) { return (size + unit - 1) / unit * unit; }

}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t size_bytes) : size_(size_bytes) {
  if (size_bytes == 0) return;
  if (size_bytes > SIZE_MAX - kHugePage) throw std::bad_alloc();
  const std::size_t unit = size_bytes >= kHugeFrom ? kHugePage : kCacheLine;
  const std::size_t size = rounded_up(size_bytes, unit == kHugePage ? 4096 : unit);
  void* memory = nullptr;
  if (posix_memalign(&memory, unit, size) != 0) throw std::bad_alloc();
#if defined(__linux__)
  if (unit == kHugePage) madvise(memory, size, MADV_HUGEPAGE);  // a wish: refusal changes nothing
#endif
  std::memset(memory, 0, size);
  data_ = static_cast<std::byte*>(memory);
}

AlignedBuffer::~AlignedBuffer() { std::free(data_); }

std::byte* Scratch::reserve(std::size_t size_bytes) {
  if (buffer_.size() < size_bytes) buffer_ = AlignedBuffer(size_bytes);
  return buffer_.data();
}

}  // namespace slipstream
