#include "isa/memory.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace slipstream {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t(2) << 20;

std::size_t rounded_up(std::size_t size, std::size_t unit) {
  return (size + unit - 1) / unit * unit;
}

void* allocate(std::size_t size, std::size_t unit) {
  void* memory = nullptr;
  if (posix_memalign(&memory, unit, rounded_up(size, unit)) != 0) throw std::bad_alloc();
  std::memset(memory, 0, size);
  return memory;
}

#if defined(__linux__)
// Large memory comes from the system already zeroed, and only as it is touched: by the threads that
// fill it, or never. It begins on a huge page; what is mapped around it goes back.
void* map(std::size_t size) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  const std::size_t mapped = size + kHugePage;
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  auto* first = static_cast<std::byte*>(memory);
  const std::size_t before = rounded_up(reinterpret_cast<std::uintptr_t>(first), kHugePage) -
                             reinterpret_cast<std::uintptr_t>(first);
  if (before > 0) munmap(first, before);
  munmap(first + before + size, mapped - before - size);
  madvise(first + before, size, MADV_HUGEPAGE);  // a wish: refusal changes nothing
  return first + before;
}

bool is_mapped(std::size_t size) { return size >= kHugePage; }
#endif

}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t size_bytes) : size_(size_bytes) {
  if (size_bytes == 0) return;
  if (size_bytes > SIZE_MAX - 2 * kHugePage) throw std::bad_alloc();
#if defined(__linux__)
  if (is_mapped(size_bytes)) {
    data_ = static_cast<std::byte*>(map(rounded_up(size_bytes, kPage)));
    return;
  }
#endif
  data_ = static_cast<std::byte*>(allocate(size_bytes, kCacheLine));
}

AlignedBuffer::~AlignedBuffer() {
#if defined(__linux__)
  if (data_ != nullptr && is_mapped(size_)) {
    munmap(data_, rounded_up(size_, kPage));
    return;
  }
#endif
  std::free(data_);
}

Arena::Piece Arena::take(std::size_t size_bytes) {
  // Elsewhere a chunk would be zeroed at once, used or not.
#if defined(__linux__)
  constexpr std::size_t kChunk = 16 * kHugePage;
#else
  constexpr std::size_t kChunk = 0;
#endif
  if (size_bytes >= kChunk) {
    auto own = std::make_shared<AlignedBuffer>(size_bytes);
    return {own->data(), own};
  }
  if (chunk_ == nullptr || used_ + size_bytes > chunk_->size()) {
    chunk_ = std::make_shared<AlignedBuffer>(kChunk);
    used_ = 0;
  }
  std::byte* data = chunk_->data() + used_;
  used_ += rounded_up(size_bytes, kCacheLine);
  return {data, chunk_};
}

std::byte* Scratch::reserve(std::size_t size_bytes) {
  if (buffer_.size() < size_bytes) buffer_ = AlignedBuffer(size_bytes);
  return buffer_.data();
}

void level(std::vector<Scratch>& of_threads) {
  std::size_t largest = 0;
  for (const Scratch& scratch : of_threads) largest = std::max(largest, scratch.size());
  for (Scratch& scratch : of_threads) scratch.reserve(largest);
}

}  // namespace slipstream
