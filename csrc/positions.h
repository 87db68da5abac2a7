// Disentangled positions: products of queries with keys of positions, and of keys with queries of
// positions (DeBERTa).
#pragma once

#include <cstdint>
#include <vector>

#include "bits.h"
#include "path.h"

namespace bipft {
namespace {

// A table's rows in the order in which a query meets them: that of (query - key = length - 1)
// first, down to 1 - length. The rows for query q and keys 0, 1, ... follow each other from row
// length - 1 - q on.
class PositionRows {
 public:
  PositionRows(const Program& p, const Section& table, const Input& input)
      : head_(table.count ? 2 * input.length - 1 : 0), bytes_(row_bytes(p.attention.head_dim)) {
    if (!head_) return;
    const AttentionPart& a = p.attention;
    const auto* rows = p.at<std::uint8_t>(table);
    rows_.resize(a.heads * head_ * bytes_);
    for (std::int64_t h = 0; h < a.heads; ++h)
      for (std::int64_t j = 0; j < head_; ++j)
        std::memcpy(rows_.data() + (h * head_ + j) * bytes_,
                    rows + (h * a.positions + input.offsets[head_ - 1 - j]) * bytes_, bytes_);
  }

  // Rows of head h from that for the largest distance on; null where there is no table.
  const std::uint8_t* of(std::int64_t h) const {
    return head_ ? rows_.data() + h * head_ * bytes_ : nullptr;
  }

 private:
  const std::int64_t head_, bytes_;  // rows of a head, and bytes of a row
  std::vector<std::uint8_t> rows_;
};

// sums[k] += 2^place (a_k . b_k): rows of `dim` signs, `step` bytes from one a to the next (0 where
// all are the same) and row_bytes(dim) from one b to the next.
inline void add_products(const std::uint8_t* a, std::int64_t step, const std::uint8_t* b,
                         std::int64_t dim, std::int64_t count, int place, float* sums) {
  const std::int64_t bytes = row_bytes(dim);
  const auto signs = static_cast<std::int32_t>(dim);
  const auto add = [=](std::int64_t k, std::int32_t differ) {
    sums[k] += static_cast<float>((signs - 2 * differ) * (1 << place));
  };
  if (bytes == 8) {
    for (std::int64_t k = 0; k < count; ++k)
      add(k, popcount64(load64(a + k * step) ^ load64(b + k * 8)));
    return;
  }
  for (std::int64_t k = 0; k < count; ++k) {
    std::int32_t differ = 0;
    for (std::int64_t w = 0; w < bytes; w += 8)
      differ += popcount64(load64(a + k * step + w) ^ load64(b + k * bytes + w));
    add(k, differ);
  }
}

}  // namespace
}  // namespace bipft
