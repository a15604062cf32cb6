// Sizes the CPU kernels are cut by.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/arena.h"

namespace reformer {

constexpr size_t kLanes = 16;        // rows are padded to this many floats: the widest vector
constexpr size_t kTileKeys = 64;     // keys packed together
constexpr size_t kSegmentTiles = 8;  // tiles whose logits are held at once
constexpr size_t kQueryRows = 32;    // queries whose logits are held at once
constexpr size_t kGroupRows = 16;    // queries whose products leave out the same keys
constexpr size_t kHashTokens = 128;  // tokens hashed together
constexpr size_t kHashColumns = 64;  // rotated coordinates held at once
constexpr size_t kCacheLine = WorkspaceArena::kCacheLine;

}  // namespace reformer
