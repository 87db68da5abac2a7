// Attention on codes as 8-bit integers: the integers of planes.h, for many bits in fewer steps.
//
// A k-bit code of keys and values is 2 s + 1 for a signed s = field - 2^(k-1), which a byte holds
// (codes.h); one of queries is 2 u - (2^k - 1), u its field; one of probabilities is u itself.
#pragma once

#include <vector>

#include "codes.h"
#include "dot.h"
#include "head.h"
#include "probabilities.h"

namespace bipft {
namespace {

// Codes of all queries, keys and values, where the products read them.
template <class Isa>
class ByteOperands {
 public:
  ByteOperands(const AttentionPart& a, const Input& input)
      : a_(a),
        length_(input.length),
        halves_(ceil_div(a.key_value_bits, Isa::dot.weight_bits)),
        half_((1 << (a.key_value_bits - 1))) {
    const std::int64_t heads = input.batch * a_.heads, shared = input.batch * a_.key_value_heads;
    queries_.resize(heads * rows() * DotProduct<Isa>::row_bytes(a_.head_dim));
    query_sums_.resize(heads * length_);
    keys_.resize(shared * halves_ * key_bytes());
    key_sums_.resize(shared * length_);
    values_.resize(shared * halves_ * value_bytes());
    value_sums_.resize(shared * a_.head_dim);
  }

  // One head's numbers of one token: head `h` of all sequences'.
  void put(Role role, std::int64_t h, std::int64_t t, const float* x, const float* shift,
           float clip) {
    const auto bits = static_cast<int>(role == Role::kQuery ? a_.bits : a_.key_value_bits);
    place(role, h, t, [&](std::int64_t k, std::int64_t count, std::uint8_t* codes) {
      write_fields(x + k, count, shift + k, clip, bits, offset(role), codes);
    });
  }

  // The same of one bit: bits [first, first + head_dim) of `signs`.
  void put_signs(Role role, std::int64_t h, std::int64_t t, const std::uint8_t* signs,
                 std::int64_t first) {
    place(role, h, t, [&](std::int64_t k, std::int64_t count, std::uint8_t* codes) {
      for (std::int64_t l = 0, bit = first + k; l < count; ++l, ++bit)
        codes[l] = static_cast<std::uint8_t>((signs[bit / 8] >> (bit % 8) & 1) - offset(role));
    });
  }

  // What is left to do for one head of keys and values when all tokens are there.
  void weave(std::int64_t h) {
    if constexpr (Isa::dot.offset != 0) {
      std::int32_t* sums = value_sums_.data() + h * a_.head_dim;
      for (std::int64_t d = 0; d < a_.head_dim; ++d)
        for (std::int64_t t = 0; t < length_; ++t)
          for (std::int64_t half = 0; half < halves_; ++half) {
            const std::int64_t place = (h * halves_ + half) * value_bytes() +
                                       dot_place(Isa::dot, length_, d, t);
            sums[d] += static_cast<std::int8_t>(values_[place]) * (half < halves_ - 1 ? 16 : 1);
          }
    }
  }

  // Fields, less the offset, of the tile that begins at token `start`.
  const std::uint8_t* queries(std::int64_t h, std::int64_t start) const {
    return queries_.data() + (h * rows() + start) * DotProduct<Isa>::row_bytes(a_.head_dim);
  }
  void show(std::int64_t h, std::int64_t shared, Head& view) const {
    view.halves = halves_;
    view.woven_keys = keys_.data() + shared * halves_ * key_bytes();
    view.woven_values = values_.data() + shared * halves_ * value_bytes();
    view.query_sums = query_sums_.data() + h * length_;
    view.key_sums = key_sums_.data() + shared * length_;
    view.value_sums = value_sums_.data() + shared * a_.head_dim;
  }

 private:
  // Whole tiles are read: one may begin at any multiple of their rows.
  std::int64_t rows() const { return DotProduct<Isa>::padded_count(length_); }
  std::int64_t key_bytes() const { return dot_bytes(Isa::dot, a_.head_dim, length_); }
  std::int64_t value_bytes() const { return dot_bytes(Isa::dot, length_, a_.head_dim); }
  int offset(Role role) const { return role == Role::kQuery ? Isa::dot.offset : half_; }

  // Codes [k, k + count) of a row come from write(k, count, codes).
  template <class Write>
  void place(Role role, std::int64_t h, std::int64_t t, Write write) {
    const std::int64_t dims = a_.head_dim;
    std::int32_t sum = 0;
    for (std::int64_t k = 0; k < dims; k += kCodes) {
      const std::int64_t count = std::min(kCodes, dims - k);
      std::uint8_t codes[kCodes];
      write(k, count, codes);
      if (role == Role::kQuery) {
        std::copy_n(codes, count, const_cast<std::uint8_t*>(queries(h, t)) + k);
        for (std::int64_t l = 0; l < count; ++l)
          sum += static_cast<std::uint8_t>(codes[l] + Isa::dot.offset);
      } else if (role == Role::kKey) {
        for (std::int64_t l = 0; l < count; ++l) sum += static_cast<std::int8_t>(codes[l]);
        interleave(codes, count, keys_.data() + h * halves_ * key_bytes(), key_bytes(),
                   [=](std::int64_t l) { return dot_place(Isa::dot, dims, t, k + l); });
      } else {
        interleave(codes, count, values_.data() + h * halves_ * value_bytes(), value_bytes(),
                   [=](std::int64_t l) { return dot_place(Isa::dot, length_, k + l, t); });
      }
    }
    if (role == Role::kQuery) query_sums_[h * length_ + t] = sum;
    if (role == Role::kKey) key_sums_[h * length_ + t] = sum;
  }

  // Codes to their places, in two halves of four bits where they are wider than a product takes:
  // the high half first.
  template <class Place>
  void interleave(const std::uint8_t* codes, std::int64_t count, std::uint8_t* woven,
                  std::int64_t bytes, Place place) const {
    if (halves_ == 1) {
      for (std::int64_t l = 0; l < count; ++l) woven[place(l)] = codes[l];
      return;
    }
    for (std::int64_t l = 0; l < count; ++l) {
      woven[place(l)] = static_cast<std::uint8_t>(static_cast<std::int8_t>(codes[l]) >> 4);
      woven[bytes + place(l)] = codes[l] & 15;
    }
  }

  const AttentionPart& a_;
  const std::int64_t length_, halves_;
  const int half_;
  std::vector<std::uint8_t> queries_, keys_, values_;
  std::vector<std::int32_t> query_sums_, key_sums_, value_sums_;
};

// Both products of a tile of queries and one head.
template <class Isa>
class ByteProducts {
 public:
  using Operands = ByteOperands<Isa>;
  static constexpr std::int64_t kTile = Isa::dot_rows;

  void begin(const Head& h) {
    fields_.assign(kTile * DotProduct<Isa>::row_bytes(h.length),
                   static_cast<std::uint8_t>(-Isa::dot.offset));
    grow(dots_, h.halves * kTile *
                    std::max(DotProduct<Isa>::padded(h.length),
                             DotProduct<Isa>::padded(h.head_dim)));
  }

  // With the keys that any of the queries may attend to: (kTile, halves, padded(length)).
  void multiply_keys(const Head& h, const Keys& keys, const std::uint8_t* queries,
                     std::int64_t count) {
    const std::int64_t rows = Isa::dot.layout.rows, columns = DotProduct<Isa>::padded(h.length);
    const std::int64_t first = keys.first / rows * rows;
    for (std::int64_t half = 0; half < h.halves; ++half)
      DotProduct<Isa>::run({h.woven_keys + half * dot_bytes(Isa::dot, h.head_dim, h.length) +
                                dot_bytes(Isa::dot, h.head_dim, first),
                            h.head_dim, keys.end - first},
                           queries, count, dots_.data() + half * columns + first,
                           h.halves * columns);
  }

  // Scores of query `q`, which is row t of the tile, before estimates and biases.
  void scores(const Head& h, const Keys& keys, std::int64_t q, std::int64_t t,
              const std::uint8_t*, float* scores) const {
    const std::int64_t columns = DotProduct<Isa>::padded(h.length);
    const std::int32_t* dots = dots_.data() + t * h.halves * columns;
    const auto most = static_cast<std::int32_t>((1 << h.bits) - 1);
    // sum (2 u - most) (2 s + 1), where dots are sum (u - offset) s.
    const std::int32_t of_query =
        2 * h.query_sums[q] - most * static_cast<std::int32_t>(h.head_dim);
    const std::int32_t of_key = 4 * Isa::dot.offset - 2 * most;
    for (std::int64_t k = keys.first; k < keys.end; ++k) {
      const std::int32_t sum = 4 * whole(h, dots, columns, k) + of_query + of_key * h.key_sums[k];
      scores[k] = static_cast<float>(sum) * h.score_scale;
    }
  }

  // Tables decide on one bit by one, which is never multiplied as bytes.
  void decide(const Head&, const ScoreTable&, const Keys&, std::int64_t, std::int64_t) const {}

  // Codes of probabilities, the whole parts of `codes`, to row t.
  void write(const Head& h, const Keys& keys, std::int64_t t, const float* codes) {
    std::uint8_t* fields = fields_.data() + t * DotProduct<Isa>::row_bytes(h.length);
    std::int32_t sum = 0;
    for (std::int64_t k = keys.first; k < keys.end; ++k) {
      const auto code = static_cast<std::int32_t>(codes[k]);
      fields[k] = static_cast<std::uint8_t>(code - Isa::dot.offset);
      sum += code;
    }
    code_sums_[t] = sum;
  }

  // Of probabilities and values: (kTile, halves, padded(head_dim)).
  void multiply_values(const Head& h, std::int64_t count) {
    const std::int64_t columns = DotProduct<Isa>::padded(h.head_dim);
    for (std::int64_t half = 0; half < h.halves; ++half)
      DotProduct<Isa>::run({h.woven_values + half * dot_bytes(Isa::dot, h.length, h.head_dim),
                            h.length, h.head_dim},
                           fields_.data(), count, dots_.data() + half * columns,
                           h.halves * columns);
  }

  // Context of row t, before estimates: sum u (2 s + 1). No sum of 65534 u s has more than 32 bits.
  void mix(const Head& h, std::int64_t t, float* context) const {
    const std::int64_t columns = DotProduct<Isa>::padded(h.head_dim);
    const std::int32_t* dots = dots_.data() + t * h.halves * columns;
    write_context(h, context, [=, sum = code_sums_[t]](std::int64_t d) {
      const std::int64_t products = whole(h, dots, columns, d);
      return 2 * (products + std::int64_t{Isa::dot.offset} * h.value_sums[d]) + sum;
    });
  }

  // The code of row t and key k.
  int code(const Head& h, std::int64_t t, std::int64_t k) const {
    return static_cast<std::uint8_t>(
        fields_[t * DotProduct<Isa>::row_bytes(h.length) + k] + Isa::dot.offset);
  }

 private:
  // Product n of a row, put together from its halves.
  static std::int32_t whole(const Head& h, const std::int32_t* dots, std::int64_t columns,
                            std::int64_t n) {
    return h.halves == 1 ? dots[n] : 16 * dots[n] + dots[columns + n];
  }

  std::vector<std::uint8_t> fields_;  // of probabilities, less the offset
  std::vector<std::int32_t, Unset<std::int32_t>> dots_;
  std::int32_t code_sums_[kTile] = {};
};

}  // namespace
}  // namespace bipft
