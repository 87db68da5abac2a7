// What one head of attention reads for one sequence.
#pragma once

#include <algorithm>
#include <cstdint>

namespace bipft {
namespace {

enum class Role { kQuery, kKey, kValue };

struct Head {
  std::int64_t length, head_dim;
  int bits, key_value_bits;
  // Keys by token (length rows of head_dim codes), values by number (head_dim rows of length
  // codes), both interleaved; one plane, or one half of the codes, after the other.
  const std::uint8_t *woven_keys, *woven_values;
  // planes.h: bits set in each row of values, (key_value_bits, head_dim).
  const std::uint16_t* ones;
  // bytes.h: fields of each query (length), codes of each key (length), and of each row of values
  // (head_dim), added up.
  std::int64_t halves;
  const std::int32_t *query_sums, *key_sums, *value_sums;

  const std::uint16_t* forbidden;  // (length), 255 at padding
  std::int64_t window;             // keys farther away are not attended to

  float score_scale;
  // Disentangled positions: PositionRows of this head, or null; and keys not interleaved.
  const std::uint8_t *position_keys, *position_queries, *keys;
  float position_key_scale, position_query_scale;
  std::int64_t score_rank;
  const float *query_estimates, *key_estimates;  // (length, score_rank), (score_rank, length)
  const float* bias;  // by distance: bias[k - q] is added to the score of q and k; or null

  bool boolean;  // Bi-Attention: a code says whether the score is at least 0, without softmax
  float probability_step, probability_shift;

  const float *value_scale, *context_bias;  // (head_dim)
  std::int64_t context_rank;
  const float* value_estimates;  // (context_rank, length)
  const float* context_right;    // (context_rank, head_dim)
};

// The context of the integers sum(d), before estimates.
template <class Sum>
inline void write_context(const Head& h, float* context, Sum sum) {
  const float *scale = h.value_scale, *bias = h.context_bias, step = h.probability_step;
  for (std::int64_t d = 0; d < h.head_dim; ++d)
    context[d] = bias[d] + step * scale[d] * static_cast<float>(sum(d));
}

// The keys that a query may attend to for their distance: [first, end).
struct Keys {
  std::int64_t first, end;
  std::int64_t count() const { return end - first; }
};

// Of `count` queries from `start` on: what any of them may attend to.
inline Keys keys_of(const Head& h, std::int64_t start, std::int64_t count) {
  return {std::max<std::int64_t>(0, start - h.window),
          std::min(h.length, start + count + h.window)};
}

}  // namespace
}  // namespace bipft
