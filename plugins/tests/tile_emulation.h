// Linear's products of tiles on any processor: what AMX does to its tiles, in plain C++.
#pragma once

#include "kernels/cpu/linear/products.h"

namespace reformer::test {

extern const Products kEmulatedInt8Tiles;
extern const Products kEmulatedBFloat16Tiles;

}  // namespace reformer::test
