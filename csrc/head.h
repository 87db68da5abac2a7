// What one head reads for one sequence.
#pragma once

#include <algorithm>
#include <cstdint>

namespace bipft {
namespace {

struct Head {
  std::int64_t length, head_dim;
  int bits, key_value_bits;
  // Keys by token (length rows of head_dim bits), values by number (head_dim rows of length bits),
  // both interleaved; one plane after the other.
  const std::uint8_t *woven_keys, *woven_values;
  const std::uint16_t* ones;       // (key_value_bits, head_dim), bits set in each row of values
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
