// Scores of one query in floating point, from the popcounts of its product with keys.
#pragma once

#include <vector>

#include "head.h"
#include "positions.h"
#include "product.h"

namespace bipft {
namespace {

template <class Isa>
class Scores {
 public:
  // Of query `q`, which is row t of its tile. `queries`: bit planes (bits, Isa::tokens,
  // row_bytes(head_dim)); `popcounts`: (bits, key_value_bits, Isa::tokens, stride). Writes
  // scores[k] for the keys of the query.
  void operator()(const Head& h, const Keys& keys, std::int64_t q, std::int64_t t,
                  const std::uint8_t* queries, const std::uint16_t* popcounts,
                  std::int64_t stride, float* scores) {
    contents(h, keys, t, popcounts, stride, scores);
    if (h.position_keys || h.position_queries) positions(h, keys, q, t, queries, scores);
    const float* estimates = h.query_estimates + q * h.score_rank;
    for (std::int64_t r = 0; r < h.score_rank; ++r) {
      const float* of_keys = h.key_estimates + r * h.length;
      for (std::int64_t k = keys.first; k < keys.end; ++k) scores[k] += estimates[r] * of_keys[k];
    }
    if (h.bias) {
      const float* bias = h.bias - q;
      for (std::int64_t k = keys.first; k < keys.end; ++k) scores[k] += bias[k];
    }
  }

 private:
  static constexpr std::int64_t kTile = Isa::tokens;

  void contents(const Head& h, const Keys& keys, std::int64_t t, const std::uint16_t* popcounts,
                std::int64_t stride, float* scores) const {
    const auto dim = static_cast<std::int32_t>(h.head_dim);
    std::fill(scores + keys.first, scores + keys.end, 0.0f);
    for (int i = 0; i < h.bits; ++i)
      for (int j = 0; j < h.key_value_bits; ++j) {
        const std::uint16_t* counts = popcounts + ((i * h.key_value_bits + j) * kTile + t) * stride;
        for (std::int64_t k = keys.first; k < keys.end; ++k)
          scores[k] +=
              static_cast<float>((dim - 2 * static_cast<std::int32_t>(counts[k])) * (1 << (i + j)));
      }
    for (std::int64_t k = keys.first; k < keys.end; ++k) scores[k] *= h.score_scale;
  }

  void positions(const Head& h, const Keys& keys, std::int64_t q, std::int64_t t,
                 const std::uint8_t* queries, float* scores) {
    const std::int64_t bytes = row_bytes(h.head_dim), dim = h.head_dim, count = keys.count();
    const std::int64_t nearest = h.length - 1 - q + keys.first;  // the row for the first key
    if (h.position_keys) {
      sums_.assign(count, 0.0f);
      for (int i = 0; i < h.bits; ++i)
        add_products(queries + (i * kTile + t) * bytes, 0, h.position_keys + nearest * bytes, dim,
                     count, i, sums_.data());
      add(h.position_key_scale, count, scores + keys.first);
    }
    if (h.position_queries) {
      sums_.assign(count, 0.0f);
      for (int j = 0; j < h.key_value_bits; ++j)
        add_products(h.keys + (j * h.length + keys.first) * bytes, bytes,
                     h.position_queries + nearest * bytes, dim, count, j, sums_.data());
      add(h.position_query_scale, count, scores + keys.first);
    }
  }

  void add(float scale, std::int64_t count, float* scores) const {
    for (std::int64_t k = 0; k < count; ++k) scores[k] += scale * sums_[k];
  }

  std::vector<float> sums_;
};

}  // namespace
}  // namespace bipft
