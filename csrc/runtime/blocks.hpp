// Large blocks of memory that come back: fresh pages cost more to touch than a batch costs to compute, and batches of
// one run are alike in size. Keeps up to kKeptBytes that nobody uses.
#pragma once

#include <cstddef>

namespace screening {

inline constexpr std::size_t kKeptBytes = std::size_t{128} << 20;

// At least so many bytes, uninitialised, aligned to 64. Throws std::bad_alloc.
void* take_block(std::size_t bytes);

void return_block(void* block) noexcept;

}  // namespace screening
