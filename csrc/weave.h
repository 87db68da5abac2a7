// Keys and values in the form that products read: interleaved like the weights of a linear layer.
#pragma once

#include <algorithm>
#include <cstdint>

#include "bits.h"

namespace bipft {
namespace {

// Bit j of word i to bit i of word j, by swapping ever smaller blocks.
inline void transpose64(std::uint64_t* a) {
  std::uint64_t mask = 0x00000000ffffffffu;
  for (int width = 32; width; width /= 2, mask ^= mask << width)
    for (int k = 0; k < 64; k = (k + width + 1) & ~width) {
      const std::uint64_t swapped = ((a[k] >> width) ^ a[k + width]) & mask;
      a[k] ^= swapped << width;
      a[k + width] ^= swapped;
    }
}

// From `rows` rows of `columns` bits to rows of bits the other way round: round_up(columns, 64)
// rows of row_bytes(rows) bytes.
inline void transpose(const std::uint8_t* source, std::int64_t rows, std::int64_t columns,
                      std::uint8_t* target) {
  const std::int64_t from = row_bytes(columns), to = row_bytes(rows);
  for (std::int64_t word = 0; word < from; word += 8)
    for (std::int64_t block = 0; block < to; block += 8) {
      std::uint64_t square[64] = {};
      const std::int64_t count = std::min<std::int64_t>(64, rows - block * 8);
      for (std::int64_t t = 0; t < count; ++t)
        square[t] = load64(source + (block * 8 + t) * from + word);
      transpose64(square);
      for (std::int64_t d = 0; d < 64; ++d)
        store64(target + (word * 8 + d) * to + block, square[d]);
    }
}

// Keys are multiplied with token by token: `length` rows of `dims` bits.
template <class Isa>
inline void weave_keys(const std::uint8_t* keys, std::int64_t length, std::int64_t dims,
                       std::uint8_t* woven) {
  interleave(Isa::layout, keys, row_bytes(dims), dims, length, woven);
}

// Values are summed over tokens: `dims` rows of `length` bits. `transposed` is working memory,
// `ones` are the bits set in each row.
template <class Isa>
inline void weave_values(const std::uint8_t* values, std::int64_t length, std::int64_t dims,
                         std::uint8_t* transposed, std::uint8_t* woven, std::uint16_t* ones) {
  const std::int64_t columns = row_bytes(length);
  transpose(values, length, dims, transposed);
  interleave(Isa::layout, transposed, columns, length, dims, woven);
  for (std::int64_t d = 0; d < dims; ++d) {
    int count = 0;
    for (std::int64_t w = 0; w < columns; w += 8)
      count += popcount64(load64(transposed + d * columns + w));
    ones[d] = static_cast<std::uint16_t>(count);
  }
}

}  // namespace
}  // namespace bipft
