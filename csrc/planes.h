// Attention on bit planes: every plane of queries meets every plane of keys, and every plane of
// probabilities every plane of values.
#pragma once

#include <algorithm>
#include <vector>

#include "codes.h"
#include "head.h"
#include "positions.h"
#include "probabilities.h"
#include "product.h"
#include "weave.h"

namespace bipft {
namespace {

// Codes of all queries, keys and values, where the products read them.
template <class Isa>
class PlaneOperands {
 public:
  PlaneOperands(const AttentionPart& a, const Input& input)
      : a_(a), length_(input.length), bytes_(row_bytes(a.head_dim)) {
    const std::int64_t shared = input.batch * a_.key_value_heads * a_.key_value_bits;
    queries_.resize(input.batch * a_.heads * round_up(length_, kTile) * a_.bits * bytes_);
    keys_.resize(shared * length_ * bytes_);
    values_.resize(shared * length_ * bytes_);
    woven_keys_.resize(shared * key_bytes());
    woven_values_.resize(shared * value_bytes());
    ones_.resize(shared * a_.head_dim);
  }

  // One head's numbers of one token: head `h` of all sequences'.
  void put(Role role, std::int64_t h, std::int64_t t, const float* x, const float* shift,
           float clip) {
    const auto bits = static_cast<int>(role == Role::kQuery ? a_.bits : a_.key_value_bits);
    quantise<Isa>(x, a_.head_dim, shift, clip, bits,
                  [&](std::int64_t plane) { return row(role, h, t, plane); });
  }

  // The same of one bit: bits [first, first + head_dim) of `signs`.
  void put_signs(Role role, std::int64_t h, std::int64_t t, const std::uint8_t* signs,
                 std::int64_t first) {
    for (std::int64_t k = 0; k < a_.head_dim; k += 64) {
      const auto count = static_cast<int>(std::min<std::int64_t>(64, a_.head_dim - k));
      store64(row(role, h, t, 0) + k / 8, extract_bits(signs, first + k, count));
    }
  }

  // What is left to do for one head of keys and values when all tokens are there.
  void weave(std::int64_t h) {
    const std::int64_t dims = a_.head_dim;
    std::vector<std::uint8_t> transposed(round_up(dims, 64) * row_bytes(length_));
    for (std::int64_t n = h * a_.key_value_bits; n < (h + 1) * a_.key_value_bits; ++n) {
      weave_keys<Isa>(keys_.data() + n * length_ * bytes_, length_, dims,
                      woven_keys_.data() + n * key_bytes());
      weave_values<Isa>(values_.data() + n * length_ * bytes_, length_, dims, transposed.data(),
                        woven_values_.data() + n * value_bytes(), ones_.data() + n * dims);
    }
  }

  // Bit planes (bits, kTile, row_bytes(head_dim)) of the tile that begins at token `start`.
  const std::uint8_t* queries(std::int64_t h, std::int64_t start) const {
    return queries_.data() + (h * round_up(length_, kTile) + start) * a_.bits * bytes_;
  }
  void show(std::int64_t, std::int64_t shared, Head& view) const {
    const std::int64_t plane = shared * a_.key_value_bits;
    view.keys = keys_.data() + plane * length_ * bytes_;
    view.woven_keys = woven_keys_.data() + plane * key_bytes();
    view.woven_values = woven_values_.data() + plane * value_bytes();
    view.ones = ones_.data() + plane * a_.head_dim;
  }

 private:
  static constexpr std::int64_t kTile = Isa::tokens;

  std::int64_t key_bytes() const { return interleaved_bytes(Isa::layout, a_.head_dim, length_); }
  std::int64_t value_bytes() const { return interleaved_bytes(Isa::layout, length_, a_.head_dim); }

  // Queries lie by tiles of tokens, keys and values by planes.
  std::uint8_t* row(Role role, std::int64_t h, std::int64_t t, std::int64_t plane) {
    if (role == Role::kQuery)
      return const_cast<std::uint8_t*>(queries(h, t - t % kTile)) +
             (plane * kTile + t % kTile) * bytes_;
    return (role == Role::kKey ? keys_ : values_).data() +
           ((h * a_.key_value_bits + plane) * length_ + t) * bytes_;
  }

  const AttentionPart& a_;
  const std::int64_t length_, bytes_;
  std::vector<std::uint8_t> queries_, keys_, values_, woven_keys_, woven_values_;
  std::vector<std::uint16_t> ones_;
};

// Both products of a tile of queries and one head.
template <class Isa>
class PlaneProducts {
 public:
  using Operands = PlaneOperands<Isa>;
  static constexpr std::int64_t kTile = Isa::tokens;

  void begin(const Head& h) {
    planes_.assign(h.bits * kTile * row_bytes(h.length), 0);
    grow(popcounts_, h.bits * h.key_value_bits * kTile *
                         std::max(Product<Isa>::padded(h.length), Product<Isa>::padded(h.head_dim)));
  }

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

  // Scores of query `q`, which is row t of the tile, before estimates and biases.
  void scores(const Head& h, const Keys& keys, std::int64_t q, std::int64_t t,
              const std::uint8_t* queries, float* scores) {
    const std::int64_t stride = Product<Isa>::padded(h.length);
    const auto dim = static_cast<std::int32_t>(h.head_dim);
    std::fill(scores + keys.first, scores + keys.end, 0.0f);
    for (int i = 0; i < h.bits; ++i)
      for (int j = 0; j < h.key_value_bits; ++j) {
        const std::uint16_t* counts =
            popcounts_.data() + ((i * h.key_value_bits + j) * kTile + t) * stride;
        for (std::int64_t k = keys.first; k < keys.end; ++k)
          scores[k] +=
              static_cast<float>((dim - 2 * static_cast<std::int32_t>(counts[k])) * (1 << (i + j)));
      }
    for (std::int64_t k = keys.first; k < keys.end; ++k) scores[k] *= h.score_scale;
    if (h.position_keys || h.position_queries) positions(h, keys, q, t, queries, scores);
  }

  // The bits of row t, one plane: where a table decides.
  void decide(const Head& h, const ScoreTable& table, const Keys& keys, std::int64_t q,
              std::int64_t t) {
    std::uint16_t* counts = popcounts_.data() + t * Product<Isa>::padded(h.length);
    std::uint8_t* bits = planes_.data() + t * row_bytes(h.length);
    if (table.by_distance.empty()) return threshold<Isa>(h, table, keys, counts, bits);
    grow(weights_, h.length);
    threshold_by_distance(h, table, keys, q, counts, weights_.data(), bits);
  }

  // Codes of probabilities, the whole parts of `codes`, to row t.
  void write(const Head& h, const Keys& keys, std::int64_t t, const float* codes) {
    const std::int64_t bytes = row_bytes(h.length);
    std::uint8_t* bits = planes_.data() + t * bytes;
    if (h.bits == 1) return at_least_one<Isa>(keys, codes, bits);
    const Keys all = eights(keys);
    for (std::int64_t first = all.first; first < all.end; first += kCodes) {
      std::uint8_t of_keys[kCodes] = {};
      const std::int64_t count = std::min(kCodes, all.end - first);
      for (std::int64_t l = 0; l < count; ++l)
        of_keys[l] = static_cast<std::uint8_t>(static_cast<int>(codes[first + l]));
      split(of_keys, first, count, h.bits, [=](int i) { return bits + i * kTile * bytes; });
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

  // Context of row t, before estimates. The {0, 1} planes of probabilities against the +-1 planes
  // of values: as popcount(p AND v) = (ones(p) + ones(v) - popcount(p XOR v)) / 2, the sum over the
  // keys that are attended to, 2 popcount(p AND v) - ones(p), is ones(v) - popcount(p XOR v).
  void mix(const Head& h, std::int64_t t, float* context) {
    const std::int64_t stride = Product<Isa>::padded(h.head_dim);
    if (h.bits == 1 && h.key_value_bits == 1) {
      const std::uint16_t* counts = popcounts_.data() + t * stride;
      return write_context(h, context, [&](std::int64_t d) {
        return static_cast<std::int32_t>(h.ones[d]) - static_cast<std::int32_t>(counts[d]);
      });
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
    write_context(h, context, [&](std::int64_t d) { return sums_[d]; });
  }

  // The code of row t and key k.
  int code(const Head& h, std::int64_t t, std::int64_t k) const {
    int code = 0;
    for (int i = 0; i < h.bits; ++i)
      code |= ((planes_[(i * kTile + t) * row_bytes(h.length) + k / 8] >> (k % 8)) & 1) << i;
    return code;
  }

 private:
  void positions(const Head& h, const Keys& keys, std::int64_t q, std::int64_t t,
                 const std::uint8_t* queries, float* scores) {
    const std::int64_t bytes = row_bytes(h.head_dim), dim = h.head_dim, count = keys.count();
    const std::int64_t nearest = h.length - 1 - q + keys.first;  // the row for the first key
    if (h.position_keys) {
      positions_.assign(count, 0.0f);
      for (int i = 0; i < h.bits; ++i)
        add_products(queries + (i * kTile + t) * bytes, 0, h.position_keys + nearest * bytes, dim,
                     count, i, positions_.data());
      add(h.position_key_scale, count, scores + keys.first);
    }
    if (h.position_queries) {
      positions_.assign(count, 0.0f);
      for (int j = 0; j < h.key_value_bits; ++j)
        add_products(h.keys + (j * h.length + keys.first) * bytes, bytes,
                     h.position_queries + nearest * bytes, dim, count, j, positions_.data());
      add(h.position_query_scale, count, scores + keys.first);
    }
  }

  void add(float scale, std::int64_t count, float* scores) const {
    for (std::int64_t k = 0; k < count; ++k) scores[k] += scale * positions_[k];
  }

  Product<Isa> product_;
  std::vector<std::uint8_t> planes_;
  std::vector<std::uint16_t> popcounts_;
  std::vector<double> weights_;
  std::vector<std::int64_t> sums_;
  std::vector<float> positions_;
};

}  // namespace
}  // namespace bipft
