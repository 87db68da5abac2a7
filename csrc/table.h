// Tables outside the encoder layers: rows of numbers of a few bits, each row with a step.
#pragma once

#include <cstdint>

namespace bipft {

// A number is (field - (2^(bits - 1) - 1)) * step, with 1 bit a sign times the step. Fields lie in
// a row like bits (bits.h): the first in the low end of its byte.
struct Table {
  const std::uint8_t* packed;  // (rows, ceil(columns * bits / 8))
  const std::uint16_t* steps;  // (rows), fp16
  std::int64_t rows, columns;
  int bits;  // 1, 4 or 8
};

// Word embeddings by frequency: frequent words are rows of a table, all others as many codes as
// they have parts, each the number of a centroid among its part's kCentroids.
struct Words {
  static constexpr std::int64_t kCentroids = 256;
  Table frequent;
  Table books;                      // (parts * kCentroids, numbers of a part)
  const std::uint8_t* codes;        // (rare, parts)
  const std::uint8_t* is_frequent;  // one bit a word
  const std::int32_t* before;       // frequent words before each byte of is_frequent
  std::int64_t rare, parts;
};

}  // namespace bipft
