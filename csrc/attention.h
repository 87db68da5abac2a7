// Self-attention of a few queries and one head, both products on bits.
#pragma once

#include <algorithm>
#include <vector>

#include "bits.h"
#include "math.h"
#include "product.h"

namespace bipft {
namespace {

// What one head reads for one sequence: keys and values interleaved like the weights of a linear
// layer, keys by token (length rows of head_dim bits), values transposed (head_dim rows of length
// bits).
struct Head {
  std::int64_t length, head_dim;
  int bits, key_value_bits;
  const std::uint8_t* keys;          // (key_value_bits) times interleaved
  const std::uint8_t* values;        // (key_value_bits) times interleaved
  const std::uint16_t* ones;         // (key_value_bits, head_dim), bits set in each row of values
  const std::uint16_t* forbidden;    // (length), 255 at padding
  bool boolean;  // Bi-Attention: a code says whether the score is at least 0, without softmax
  float score_scale, probability_scale, probability_shift;
  std::int64_t score_rank, context_rank;
  const float* key_estimates;    // (score_rank, length)
  const float* value_estimates;  // (context_rank, length)
  const float* context_right;    // (context_rank, head_dim)
  const float* value_scale;      // (head_dim)
  const float* context_bias;     // (head_dim)
};

// exp(score) by popcount, where a score depends on the popcount alone: 1 bit, no estimator.
struct ScoreTable {
  double weight[256] = {};  // 255 is no popcount: the weight of padding is 0

  static bool serves(const Head& h) {
    const double span = 2.0 * std::fabs(h.score_scale) * static_cast<double>(h.head_dim);
    return !h.boolean && h.bits == 1 && h.key_value_bits == 1 && h.score_rank == 0 &&
           h.head_dim < 255 && span < 600;
  }
  explicit ScoreTable(const Head& h) {
    const double scale = h.score_scale, step = std::exp(-2 * scale);
    weight[0] = std::exp(scale * static_cast<double>(h.head_dim));
    for (std::int64_t c = 1; c <= h.head_dim; ++c) weight[c] = weight[c - 1] * step;
  }
};

template <class Isa>
class HeadAttention {
 public:
  // Contexts of `count` queries, `stride` floats apart. `queries`: bit planes (bits, kTile,
  // row_bytes(head_dim)); `estimates`: (count, score_rank).
  void operator()(const Head& h, const ScoreTable* table, const std::uint8_t* queries,
                  const float* estimates, std::int64_t count, float* context,
                  std::int64_t stride) {
    const std::int64_t bytes = row_bytes(h.length);
    planes_.assign(h.bits * kTile * bytes, 0);
    scores_.resize(h.length);
    popcounts_.resize(h.bits * h.key_value_bits * kTile *
                      Product<Isa>::padded(std::max(h.length, h.head_dim)));
    multiply(h, h.keys, h.head_dim, h.length, queries, count);
    for (std::int64_t t = 0; t < count; ++t) {
      if (table) {
        threshold(h, *table, t);
        continue;
      }
      score(h, estimates + t * h.score_rank, t);
      if (h.boolean)
        compare(h, t);
      else
        quantize(h, t);
    }
    multiply(h, h.values, h.length, h.head_dim, planes_.data(), count);
    for (std::int64_t t = 0; t < count; ++t) {
      mix(h, t, context + t * stride);
      if (h.context_rank) estimate(h, t, context + t * stride);
    }
  }

 private:
  static constexpr std::int64_t kTile = Isa::tokens;

  // Popcounts of every pair of planes, (bits, key_value_bits, kTile, padded(out)).
  void multiply(const Head& h, const std::uint8_t* woven, std::int64_t in, std::int64_t out,
                const std::uint8_t* rows, std::int64_t count) {
    for (int i = 0; i < h.bits; ++i)
      for (int j = 0; j < h.key_value_bits; ++j)
        product_({woven + j * interleaved_bytes(Isa::layout, in, out), in, out},
                 rows + i * kTile * row_bytes(in), count,
                 popcounts_.data() + (i * h.key_value_bits + j) * kTile * Product<Isa>::padded(out));
  }

  // One bit, no estimator: softmax and threshold become one interval of popcounts.
  void threshold(const Head& h, const ScoreTable& table, std::int64_t t) {
    std::uint16_t* counts = popcounts_.data() + t * Product<Isa>::padded(h.length);
    // Padding becomes 255: its weight is 0, and no interval holds it.
    for (std::int64_t k = 0; k < h.length; ++k) counts[k] |= h.forbidden[k];
    double sums[4] = {};
    std::int64_t k = 0;
    for (; k + 4 <= h.length; k += 4)
      for (int l = 0; l < 4; ++l) sums[l] += table.weight[counts[k + l]];
    for (; k < h.length; ++k) sums[k % 4] += table.weight[counts[k]];
    const double least = (h.probability_shift + 0.5 * h.probability_scale) *
                         ((sums[0] + sums[1]) + (sums[2] + sums[3]));
    const double* weight = table.weight;
    std::int64_t low = 0, high = h.head_dim;
    while (low <= high && weight[low] < least) ++low;
    while (low <= high && weight[high] < least) --high;
    if (low > high) return;
    std::uint8_t* bits = planes_.data() + t * row_bytes(h.length);
    for (k = 0; k + 8 <= h.length; k += 8)
      bits[k / 8] = Isa::inside(counts + k, static_cast<std::uint16_t>(low),
                                static_cast<std::uint16_t>(high - low));
    for (; k < h.length; ++k)
      bits[k / 8] |= static_cast<std::uint8_t>(low <= counts[k] && counts[k] <= high) << (k % 8);
  }

  // Any bits and estimators: scores in floating point.
  void score(const Head& h, const float* estimates, std::int64_t t) {
    const std::int64_t n = h.length, stride = Product<Isa>::padded(n);
    float* scores = scores_.data();
    for (std::int64_t k = 0; k < n; ++k) scores[k] = 0;
    for (int i = 0; i < h.bits; ++i)
      for (int j = 0; j < h.key_value_bits; ++j) {
        const std::uint16_t* counts =
            popcounts_.data() + ((i * h.key_value_bits + j) * kTile + t) * stride;
        const auto dim = static_cast<std::int32_t>(h.head_dim), place = 1 << (i + j);
        for (std::int64_t k = 0; k < n; ++k)
          scores[k] += static_cast<float>((dim - 2 * static_cast<std::int32_t>(counts[k])) * place);
      }
    for (std::int64_t k = 0; k < n; ++k) scores[k] *= h.score_scale;
    for (std::int64_t r = 0; r < h.score_rank; ++r) {
      const float* keys = h.key_estimates + r * n;
      for (std::int64_t k = 0; k < n; ++k) scores[k] += estimates[r] * keys[k];
    }
  }

  // Bi-Attention: which scores are not negative.
  void compare(const Head& h, std::int64_t t) {
    std::uint8_t* bits = planes_.data() + t * row_bytes(h.length);
    for (std::int64_t k = 0; k < h.length; ++k)
      bits[k / 8] |= static_cast<std::uint8_t>(scores_[k] >= 0 && !h.forbidden[k]) << (k % 8);
  }

  // Softmax of the scores, and its codes.
  void quantize(const Head& h, std::int64_t t) {
    const std::int64_t n = h.length;
    float* scores = scores_.data();
    float largest = -INFINITY;
    for (std::int64_t k = 0; k < n; ++k)
      if (!h.forbidden[k]) largest = std::max(largest, scores[k]);
    for (std::int64_t k = 0; k < n; ++k) {
      const float weight = exponential(scores[k] - largest);
      scores[k] = h.forbidden[k] ? 0.0f : weight;
    }
    const float total = sum(n, [=](std::int64_t k) { return scores[k]; });
    if (total == 0) return;
    const float most = static_cast<float>((1 << h.bits) - 1);
    const float per_step = 1.0f / (total * h.probability_scale);
    const float shift = h.probability_shift / h.probability_scale;
    for (std::int64_t k = 0; k < n; ++k) {
      // A threshold below 0 attends to everything but padding.
      const float steps = h.forbidden[k] ? 0.0f : std::max(scores[k] * per_step - shift, 0.0f);
      const int code = static_cast<int>(std::min(steps, most) + 0.5f);
      for (int i = 0; i < h.bits; ++i)
        planes_[(i * kTile + t) * row_bytes(n) + k / 8] |=
            static_cast<std::uint8_t>(((code >> i) & 1) << (k % 8));
    }
  }

  // The {0, 1} planes of probabilities against the +-1 planes of values: as
  // popcount(p AND v) = (ones(p) + ones(v) - popcount(p XOR v)) / 2, the sum over the keys that
  // are attended to, 2 popcount(p AND v) - ones(p), is ones(v) - popcount(p XOR v).
  void mix(const Head& h, std::int64_t t, float* context) {
    const std::int64_t stride = Product<Isa>::padded(h.head_dim);
    sums_.assign(h.head_dim, 0);
    for (int i = 0; i < h.bits; ++i)
      for (int j = 0; j < h.key_value_bits; ++j) {
        const std::uint16_t* counts =
            popcounts_.data() + ((i * h.key_value_bits + j) * kTile + t) * stride;
        const std::uint16_t* ones = h.ones + j * h.head_dim;
        for (std::int64_t d = 0; d < h.head_dim; ++d)
          sums_[d] += (static_cast<std::int32_t>(ones[d]) - static_cast<std::int32_t>(counts[d])) *
                      (1 << (i + j));
      }
    for (std::int64_t d = 0; d < h.head_dim; ++d)
      context[d] =
          h.context_bias[d] + h.probability_scale * h.value_scale[d] * static_cast<float>(sums_[d]);
  }

  void estimate(const Head& h, std::int64_t t, float* context) {
    for (std::int64_t k = 0; k < h.length; ++k) {
      int code = 0;
      for (int i = 0; i < h.bits; ++i)
        code |= ((planes_[(i * kTile + t) * row_bytes(h.length) + k / 8] >> (k % 8)) & 1) << i;
      scores_[k] = h.probability_scale * static_cast<float>(code);
    }
    for (std::int64_t r = 0; r < h.context_rank; ++r) {
      const float mixed = dot(scores_.data(), h.value_estimates + r * h.length, h.length);
      const float* right = h.context_right + r * h.head_dim;
      for (std::int64_t d = 0; d < h.head_dim; ++d) context[d] += mixed * right[d];
    }
  }

  Product<Isa> product_;
  std::vector<std::uint8_t> planes_;
  std::vector<std::uint16_t> popcounts_;
  std::vector<float> scores_;
  std::vector<std::int32_t> sums_;
};

}  // namespace
}  // namespace bipft
