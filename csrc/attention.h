// Self-attention of a few queries and one head, both products on codes.
#pragma once

#include <algorithm>
#include <vector>

#include "head.h"
#include "math.h"
#include "probabilities.h"
#include "product.h"

namespace bipft {
namespace {

// Products: of planes.h or bytes.h.
template <class Products>
class HeadAttention {
 public:
  // Contexts of the `count` queries from `start` on, `stride` floats apart. `queries`: of the
  // products' operands; `table`: null where it does not serve.
  void operator()(const Head& h, const ScoreTable* table, const std::uint8_t* queries,
                  std::int64_t start, std::int64_t count, float* context, std::int64_t stride) {
    grow(scores_, round_up(h.length, 8));
    products_.begin(h);
    products_.multiply_keys(h, keys_of(h, start, count), queries, count);
    for (std::int64_t t = 0; t < count; ++t) {
      const Keys keys = keys_of(h, start + t, 1);
      if (table) {
        products_.decide(h, *table, keys, start + t, t);
        continue;
      }
      products_.scores(h, keys, start + t, t, queries, scores_.data());
      add_to_scores(h, keys, start + t);
      if (h.boolean)
        compare(h, keys, scores_.data());
      else
        soften(h, keys, scores_.data());
      products_.write(h, keys, t, scores_.data());
    }
    products_.multiply_values(h, count);
    for (std::int64_t t = 0; t < count; ++t) {
      products_.mix(h, t, context + t * stride);
      if (h.context_rank) estimate(h, t, context + t * stride);
    }
  }

 private:
  // Estimates and biases of query `q`.
  void add_to_scores(const Head& h, const Keys& keys, std::int64_t q) {
    const float* estimates = h.query_estimates + q * h.score_rank;
    for (std::int64_t r = 0; r < h.score_rank; ++r) {
      const float* of_keys = h.key_estimates + r * h.length;
      for (std::int64_t k = keys.first; k < keys.end; ++k) scores_[k] += estimates[r] * of_keys[k];
    }
    if (h.bias) {
      const float* bias = h.bias - q;
      for (std::int64_t k = keys.first; k < keys.end; ++k) scores_[k] += bias[k];
    }
  }

  void estimate(const Head& h, std::int64_t t, float* context) {
    for (std::int64_t k = 0; k < h.length; ++k)
      scores_[k] = h.probability_step * static_cast<float>(products_.code(h, t, k));
    for (std::int64_t r = 0; r < h.context_rank; ++r) {
      const float mixed = dot(scores_.data(), h.value_estimates + r * h.length, h.length);
      const float* right = h.context_right + r * h.head_dim;
      for (std::int64_t d = 0; d < h.head_dim; ++d) context[d] += mixed * right[d];
    }
  }

  Products products_;
  std::vector<float> scores_;
};

}  // namespace
}  // namespace bipft
