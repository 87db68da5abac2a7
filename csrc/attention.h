// Self-attention of a few queries and one head, both products on bits.
#pragma once

#include <algorithm>
#include <vector>

#include "probabilities.h"
#include "product.h"
#include "scores.h"

namespace bipft {
namespace {

template <class Isa>
class HeadAttention {
 public:
  // Contexts of the `count` queries from `start` on, `stride` floats apart. `queries`: bit planes
  // (bits, Isa::tokens, row_bytes(head_dim)); `table`: null where it does not serve.
  void operator()(const Head& h, const ScoreTable* table, const std::uint8_t* queries,
                  std::int64_t start, std::int64_t count, float* context, std::int64_t stride) {
    const std::int64_t bytes = row_bytes(h.length), columns = Product<Isa>::padded(h.length);
    planes_.assign(h.bits * kTile * bytes, 0);
    grow(scores_, round_up(h.length, 8));
    if (table && !table->by_distance.empty()) grow(weights_, h.length);
    grow(popcounts_, h.bits * h.key_value_bits * kTile *
                         std::max(columns, Product<Isa>::padded(h.head_dim)));
    multiply_keys(h, keys_of(h, start, count), queries, count);
    for (std::int64_t t = 0; t < count; ++t) {
      const Keys keys = keys_of(h, start + t, 1);
      std::uint8_t* bits = planes_.data() + t * bytes;
      if (table) {
        std::uint16_t* counts = popcounts_.data() + t * columns;
        if (table->by_distance.empty())
          threshold<Isa>(h, *table, keys, counts, bits);
        else
          threshold_by_distance(h, *table, keys, start + t, counts, weights_.data(), bits);
        continue;
      }
      score_(h, keys, start + t, t, queries, popcounts_.data(), columns, scores_.data());
      if (h.boolean)
        compare<Isa>(h, keys, scores_.data(), bits);
      else
        soften<Isa>(h, keys, scores_.data(), bits, kTile * bytes);
    }
    multiply_values(h, count);
    for (std::int64_t t = 0; t < count; ++t) {
      mix(h, t, context + t * stride);
      if (h.context_rank) estimate(h, t, context + t * stride);
    }
  }

 private:
  static constexpr std::int64_t kTile = Isa::tokens;

  // Popcounts with the keys that any of the queries may attend to, for every pair of planes:
  // (bits, key_value_bits, kTile, padded(length)).
  void multiply_keys(const Head& h, const Keys& keys, const std::uint8_t* queries,
                     std::int64_t count) {
    const std::int64_t rows = Isa::layout.rows, stride = Product<Isa>::padded(h.length);
    const std::int64_t block = interleaved_bytes(Isa::layout, h.head_dim, rows);
    const std::int64_t first = keys.first / rows, blocks = ceil_div(keys.end, rows) - first;
    for (int i = 0; i < h.bits; ++i)
      for (int j = 0; j < h.key_value_bits; ++j) {
        const std::uint8_t* woven =
            h.woven_keys + j * interleaved_bytes(Isa::layout, h.head_dim, h.length);
        product_({woven + first * block, h.head_dim, blocks * rows},
                 queries + i * kTile * row_bytes(h.head_dim), count,
                 popcounts_.data() + (i * h.key_value_bits + j) * kTile * stride + first * rows,
                 stride);
      }
  }

  // Popcounts of probabilities and values: (bits, key_value_bits, kTile, padded(head_dim)).
  void multiply_values(const Head& h, std::int64_t count) {
    const std::int64_t stride = Product<Isa>::padded(h.head_dim);
    for (int i = 0; i < h.bits; ++i)
      for (int j = 0; j < h.key_value_bits; ++j) {
        const std::uint8_t* woven =
            h.woven_values + j * interleaved_bytes(Isa::layout, h.length, h.head_dim);
        product_({woven, h.length, h.head_dim}, planes_.data() + i * kTile * row_bytes(h.length),
                 count, popcounts_.data() + (i * h.key_value_bits + j) * kTile * stride, stride);
      }
  }

  // The {0, 1} planes of probabilities against the +-1 planes of values: as
  // popcount(p AND v) = (ones(p) + ones(v) - popcount(p XOR v)) / 2, the sum over the keys that
  // are attended to, 2 popcount(p AND v) - ones(p), is ones(v) - popcount(p XOR v).
  void mix(const Head& h, std::int64_t t, float* context) {
    const std::int64_t stride = Product<Isa>::padded(h.head_dim);
    const auto write = [&](std::int64_t d, auto sum) {
      context[d] = h.context_bias[d] +
                   h.probability_step * h.value_scale[d] * static_cast<float>(sum);
    };
    if (h.bits == 1 && h.key_value_bits == 1) {
      const std::uint16_t* counts = popcounts_.data() + t * stride;
      for (std::int64_t d = 0; d < h.head_dim; ++d)
        write(d, static_cast<std::int32_t>(h.ones[d]) - static_cast<std::int32_t>(counts[d]));
      return;
    }
    // 65534 codes of eight bits by eight have a sum of more than 32 bits.
    sums_.assign(h.head_dim, 0);
    for (int i = 0; i < h.bits; ++i)
      for (int j = 0; j < h.key_value_bits; ++j) {
        const std::uint16_t* counts =
            popcounts_.data() + ((i * h.key_value_bits + j) * kTile + t) * stride;
        const std::uint16_t* ones = h.ones + j * h.head_dim;
        for (std::int64_t d = 0; d < h.head_dim; ++d)
          sums_[d] += static_cast<std::int64_t>(
              (static_cast<std::int32_t>(ones[d]) - static_cast<std::int32_t>(counts[d])) *
              (1 << (i + j)));
      }
    for (std::int64_t d = 0; d < h.head_dim; ++d) write(d, sums_[d]);
  }

  void estimate(const Head& h, std::int64_t t, float* context) {
    for (std::int64_t k = 0; k < h.length; ++k) {
      int code = 0;
      for (int i = 0; i < h.bits; ++i)
        code |= ((planes_[(i * kTile + t) * row_bytes(h.length) + k / 8] >> (k % 8)) & 1) << i;
      scores_[k] = h.probability_step * static_cast<float>(code);
    }
    for (std::int64_t r = 0; r < h.context_rank; ++r) {
      const float mixed = dot(scores_.data(), h.value_estimates + r * h.length, h.length);
      const float* right = h.context_right + r * h.head_dim;
      for (std::int64_t d = 0; d < h.head_dim; ++d) context[d] += mixed * right[d];
    }
  }

  Product<Isa> product_;
  Scores<Isa> score_;
  std::vector<std::uint8_t> planes_;
  std::vector<std::uint16_t> popcounts_;
  std::vector<float> scores_;
  std::vector<double> weights_;
  std::vector<std::int64_t> sums_;
};

}  // namespace
}  // namespace bipft
