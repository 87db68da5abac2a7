// Self-attention of one query and one head, on bits.
#pragma once

#include <algorithm>
#include <vector>

#include "bits.h"
#include "math.h"

namespace bipft {
namespace {

// What one head reads for one sequence. Keys are stored word by word so that a loop over keys is
// a loop over neighbours; values are transposed, a row of bits over the keys for every dimension.
struct Head {
  std::int64_t length, length_words, head_dim, words;
  int bits, key_value_bits;
  const std::uint64_t* keys;      // (key_value_bits, words, length)
  const std::uint64_t* values;    // (key_value_bits, head_dim, length_words)
  const std::uint8_t* forbidden;  // (round_up(length, 64)), 0xff at padding and beyond the end
  float score_scale, probability_scale;
  std::int64_t score_rank, context_rank;
  const float* key_estimates;      // (length, score_rank)
  const float* value_estimates;    // (length, context_rank)
  const float* context_right;      // (head_dim, context_rank)
  const float* value_scale;        // (head_dim)
  const float* context_bias;       // (head_dim)
};

// exp(score) by popcount, where a score depends on the popcount alone: 1 bit, no estimator.
struct ScoreTable {
  double weight[256] = {};
  std::int64_t head_dim = -1;

  static bool serves(const Head& h) {
    const double span = 2.0 * std::fabs(h.score_scale) * static_cast<double>(h.head_dim);
    return h.bits == 1 && h.key_value_bits == 1 && h.score_rank == 0 && h.head_dim < 255 &&
           span < 600;
  }
  explicit ScoreTable(const Head& h) : head_dim(h.head_dim) {
    const double scale = h.score_scale, step = std::exp(-2 * scale);
    weight[0] = std::exp(scale * static_cast<double>(head_dim));
    for (std::int64_t c = 1; c <= head_dim; ++c) weight[c] = weight[c - 1] * step;
  }
};

template <class Isa>
class HeadAttention {
 public:
  // Context of one query, (head_dim) floats. `query` is (bits, words); `estimate` (score_rank).
  void operator()(const Head& h, const ScoreTable* table, const std::uint64_t* query,
                  const float* estimate, float* context) {
    planes_.assign(h.bits * h.length_words, 0);
    if (table)
      probabilities(h, *table, query);
    else
      probabilities(h, query, estimate);
    mix(h, context);
  }

 private:
  // One bit, no estimator: softmax and threshold become one interval of popcounts.
  void probabilities(const Head& h, const ScoreTable& table, const std::uint64_t* query) {
    counts_.resize(h.length_words * 64);
    std::uint8_t* counts = counts_.data();
    const std::int64_t n = h.length;
    const std::uint64_t q = query[0];
    for (std::int64_t t = 0; t < n; ++t)
      counts[t] = static_cast<std::uint8_t>(popcount64(q ^ h.keys[t]));
    for (std::int64_t w = 1; w < h.words; ++w)
      for (std::int64_t t = 0; t < n; ++t)
        counts[t] = static_cast<std::uint8_t>(counts[t] +
                                              popcount64(query[w] ^ h.keys[w * n + t]));
    // 255 is no popcount: its weight is 0 and no interval holds it.
    for (std::int64_t t = 0; t < h.length_words * 64; ++t) counts[t] |= h.forbidden[t];
    double sums[4] = {};
    for (std::int64_t t = 0; t < h.length_words * 64; t += 4)
      for (int l = 0; l < 4; ++l) sums[l] += table.weight[counts[t + l]];
    const double total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    const double least = 0.5 * h.probability_scale * total;
    std::int64_t low = 0, high = h.head_dim;
    while (low <= high && table.weight[low] < least) ++low;
    while (low <= high && table.weight[high] < least) --high;
    if (low > high) return;
    for (std::int64_t w = 0; w < h.length_words; ++w)
      planes_[w] = Isa::inside(counts + w * 64, static_cast<std::uint8_t>(low),
                               static_cast<std::uint8_t>(high - low));
  }

  void probabilities(const Head& h, const std::uint64_t* query, const float* estimate) {
    scores_.resize(h.length);
    float largest = -INFINITY;
    for (std::int64_t t = 0; t < h.length; ++t) {
      if (h.forbidden[t]) continue;
      std::int64_t acc = 0;
      for (int i = 0; i < h.bits; ++i)
        for (int j = 0; j < h.key_value_bits; ++j) {
          std::int64_t differ = 0;
          for (std::int64_t w = 0; w < h.words; ++w)
            differ += popcount64(query[i * h.words + w] ^ h.keys[(j * h.words + w) * h.length + t]);
          acc += (h.head_dim - 2 * differ) * (std::int64_t{1} << (i + j));
        }
      scores_[t] = h.score_scale * static_cast<float>(acc) +
                   dot(estimate, h.key_estimates + t * h.score_rank, h.score_rank);
      largest = std::max(largest, scores_[t]);
    }
    double total = 0;
    for (std::int64_t t = 0; t < h.length; ++t) {
      scores_[t] = h.forbidden[t] ? 0.0f : exponential(scores_[t] - largest);
      total += scores_[t];
    }
    if (total == 0) return;
    const float most = static_cast<float>((1 << h.bits) - 1);
    const float per_step = static_cast<float>(1.0 / (total * h.probability_scale));
    for (std::int64_t t = 0; t < h.length; ++t) {
      if (h.forbidden[t]) continue;
      const int code = static_cast<int>(std::min(scores_[t] * per_step, most) + 0.5f);
      for (int i = 0; i < h.bits; ++i)
        planes_[i * h.length_words + t / 64] |= std::uint64_t{(code >> i) & 1u} << (t % 64);
    }
  }

  // The {0, 1} planes of probabilities against the +-1 planes of values.
  void mix(const Head& h, float* context) {
    const std::int64_t n = h.length_words;
    for (std::int64_t d = 0; d < h.head_dim; ++d) context[d] = h.context_bias[d];
    sums_.assign(h.head_dim, 0);
    for (int i = 0; i < h.bits; ++i) {
      const std::uint64_t* p = planes_.data() + i * n;
      std::int32_t ones = 0;
      for (std::int64_t w = 0; w < n; ++w) ones += popcount64(p[w]);
      for (int j = 0; j < h.key_value_bits; ++j)
        for (std::int64_t d = 0; d < h.head_dim; ++d) {
          const std::uint64_t* v = h.values + (j * h.head_dim + d) * n;
          std::int32_t both = 0;
          for (std::int64_t w = 0; w < n; ++w) both += popcount64(p[w] & v[w]);
          sums_[d] += (2 * both - ones) * (1 << (i + j));
        }
    }
    for (std::int64_t d = 0; d < h.head_dim; ++d)
      context[d] += h.probability_scale * h.value_scale[d] * static_cast<float>(sums_[d]);
    if (h.context_rank) estimate_context(h, context);
  }

  void estimate_context(const Head& h, float* context) {
    mixed_.assign(h.context_rank, 0.0f);
    for (std::int64_t t = 0; t < h.length; ++t) {
      int code = 0;
      for (int i = 0; i < h.bits; ++i)
        code |= static_cast<int>((planes_[i * h.length_words + t / 64] >> (t % 64)) & 1u) << i;
      if (!code) continue;
      for (std::int64_t r = 0; r < h.context_rank; ++r)
        mixed_[r] += static_cast<float>(code) * h.value_estimates[t * h.context_rank + r];
    }
    for (std::int64_t d = 0; d < h.head_dim; ++d)
      context[d] += h.probability_scale *
                    dot(mixed_.data(), h.context_right + d * h.context_rank, h.context_rank);
  }

  std::vector<std::uint64_t> planes_;
  std::vector<std::uint8_t> counts_;
  std::vector<float> scores_, mixed_;
  std::vector<std::int32_t> sums_;
};

}  // namespace
}  // namespace bipft
