// Ownership: a block belongs to whoever took it until it is returned; the sizes stand here, by address.

#include "runtime/blocks.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace screening {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

struct Sized {
  void* block;
  std::size_t bytes;
};

struct State {
  std::mutex mutex;
  std::vector<Sized> kept;  // the one returned last stands last: its pages are the likeliest to be in a cache
  std::vector<Sized> taken;

  void free_kept(std::size_t oldest) noexcept {
    for (std::size_t k = 0; k < oldest; ++k) {
      std::free(kept[k].block);
    }
    kept.erase(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(oldest));
  }
};

// Never destroyed: arrays may outlive whatever runs at the end of the process.
State& state() {
  static State& one = *new State;
  return one;
}

// One of eight sizes an octave, so that batches that are nearly alike use the same blocks.
std::size_t rounded(std::size_t bytes) {
  const std::size_t step = std::bit_floor(bytes | 4096) / 8;
  return (bytes + step - 1) / step * step;
}

// Null when there is no memory.
void* fresh(std::size_t bytes) noexcept {
  const std::size_t alignment = bytes >= 2 * kHugePage ? kHugePage : 64;
  void* block = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (block != nullptr && alignment == kHugePage) {
    madvise(block, bytes, MADV_HUGEPAGE);  // a wish: what comes of it changes no result
  }
  return block;
}

}  // namespace

void* take_block(std::size_t bytes) {
  bytes = rounded(bytes);
  State& own = state();
  const std::lock_guard lock(own.mutex);
  own.taken.reserve(own.taken.size() + 1);
  own.kept.reserve(own.kept.size() + own.taken.size() + 1);  // so that returning cannot fail
  void* block = nullptr;
  const auto alike = std::find_if(own.kept.rbegin(), own.kept.rend(), [&](Sized k) { return k.bytes == bytes; });
  if (alike != own.kept.rend()) {
    block = alike->block;
    own.kept.erase(alike.base() - 1);
  } else if (block = fresh(bytes); block == nullptr) {
    own.free_kept(own.kept.size());
    block = fresh(bytes);
  }
  if (block == nullptr) {
    throw std::bad_alloc();
  }
  own.taken.push_back({block, bytes});
  return block;
}

void return_block(void* block) noexcept {
  State& own = state();
  const std::lock_guard lock(own.mutex);
  const auto found = std::find_if(own.taken.begin(), own.taken.end(), [&](Sized t) { return t.block == block; });
  own.kept.push_back(*found);
  own.taken.erase(found);
  std::size_t bytes = 0;
  for (std::size_t k = own.kept.size(); k-- > 0;) {
    bytes += own.kept[k].bytes;
    if (bytes > kKeptBytes) {
      own.free_kept(k + 1);
      return;
    }
  }
}

}  // namespace screening
