// One encoder layer, fused: tokens go through four at a time, and what lies between the products
// stays in cache as bits.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "attention.h"
#include "product.h"
#include "program.h"
#include "threads.h"

namespace bipft {
namespace {

template <class Isa>
class Layer {
 public:
  Layer(const Program& program, std::int64_t batch, std::int64_t length)
      : p_(program),
        a_(program.attention),
        batch_(batch),
        length_(length),
        bits_(static_cast<int>(program.bits)),
        kv_bits_(static_cast<int>(program.key_value_bits)) {
    const std::int64_t heads = batch * p_.heads, rows = heads * length;
    queries_.resize(heads * round_up(length, kTile) * bits_ * row_bytes(p_.head_dim));
    keys_.resize(rows * kv_bits_ * row_bytes(p_.head_dim));
    values_.resize(rows * kv_bits_ * row_bytes(p_.head_dim));
    woven_keys_.resize(heads * kv_bits_ * woven_bytes(p_.head_dim, length));
    woven_values_.resize(heads * kv_bits_ * woven_bytes(length, p_.head_dim));
    ones_.resize(heads * kv_bits_ * p_.head_dim);
    query_estimates_.resize(rows * a_.score_rank);
    key_estimates_.resize(rows * a_.score_rank);
    value_estimates_.resize(rows * a_.context_rank);
    tabulate();
  }

  // x and y: (batch, length, hidden); mask: (batch, length), 0 at padding, or null.
  void operator()(const float* x, const std::uint8_t* mask, float* y, int threads) {
    const std::int64_t tiles = ceil_div(length_, kTile);
    std::vector<Scratch> scratch(threads, Scratch(*this));
    parallel_for(batch_ * tiles, threads, [&](std::int64_t item, int worker) {
      project(x, item / tiles, item % tiles * kTile, scratch[worker]);
    });
    parallel_for(batch_ * p_.heads, threads, [&](std::int64_t head, int) { weave(head); });
    forbid(mask);
    parallel_for(batch_ * tiles, threads, [&](std::int64_t item, int worker) {
      finish(x, y, item / tiles, item % tiles * kTile, scratch[worker]);
    });
  }

 private:
  static constexpr std::int64_t kTile = Isa::tokens;

  // What one thread works in.
  struct Scratch {
    explicit Scratch(const Layer& layer) {
      const Program& p = layer.p_;
      const std::int64_t widest = std::max(p.hidden, p.ffn);
      packed.resize(p.bits * kTile * row_bytes(widest));
      // Input of ffn_down, or the planes of one head.
      inner.resize(std::max(p.bits * kTile * row_bytes(widest),
                            p.key_value_bits * row_bytes(p.head_dim)));
      popcounts.resize(p.bits * kTile * Product<Isa>::padded(widest));
      projected.resize(kTile * p.hidden);
      context.resize(kTile * p.hidden);
      attended.resize(kTile * p.hidden);
      up.resize(kTile * p.ffn);
      ranks.resize(p.hidden + p.ffn);
    }
    Product<Isa> product;
    HeadAttention<Isa> attention;
    std::vector<std::uint8_t> packed, inner;
    std::vector<std::uint16_t> popcounts;
    std::vector<float> projected, context, attended, up, ranks;
  };

  // Codes of `count` rows of x, as bit planes (plane, row, row_bytes).
  void quantize(const float* x, std::int64_t count, const LinearSpec& l, std::uint8_t* out) const {
    const float* shift = p_.at<float>(l.shift);
    for (std::int64_t t = 0; t < count; ++t)
      quantize_row(x + t * l.in, l.in, shift, l.activation_scale, bits_,
                   [&](int plane) { return out + (plane * kTile + t) * row_bytes(l.in); });
  }

  // Bit planes of the k-bit codes of one row (nn.quantizers.signed_codes).
  template <class Plane>
  static void quantize_row(const float* x, std::int64_t n, const float* shift, float scale,
                           int bits, Plane plane) {
    const std::int64_t bytes = row_bytes(n);
    for (int i = 0; i < bits; ++i) std::memset(plane(i), 0, bytes);
    if (bits == 1) {
      std::uint8_t* out = plane(0);
      std::int64_t k = 0;
      for (; k + 8 <= n; k += 8) out[k / 8] = Isa::at_least(x + k, shift + k);
      for (; k < n; ++k) out[k / 8] |= static_cast<std::uint8_t>(x[k] >= shift[k]) << (k % 8);
      return;
    }
    const float half = static_cast<float>(1 << (bits - 1));
    for (std::int64_t k = 0; k < n; ++k) {
      const float step = std::floor((x[k] - shift[k]) / (2.0f * scale));
      const int code = static_cast<int>(std::min(std::max(step, -half), half - 1.0f) + half);
      for (int i = 0; i < bits; ++i)
        plane(i)[k / 8] |= static_cast<std::uint8_t>(((code >> i) & 1) << (k % 8));
    }
  }

  // popcounts of `count` rows of planes, (plane, row, padded(out)).
  void multiply(const LinearSpec& l, const std::uint8_t* packed, std::int64_t count,
                Scratch& s) const {
    const Weights weights{p_.at<std::uint8_t>(l.weights), l.in, l.out};
    for (int plane = 0; plane < bits_; ++plane)
      s.product(weights, packed + plane * kTile * row_bytes(l.in), count,
                s.popcounts.data() + plane * kTile * Product<Isa>::padded(l.out));
  }

  // The float output of row t: scale * acc + bias + up (down x).
  void output(const LinearSpec& l, std::int64_t t, const float* x, float* y, Scratch& s) const {
    const std::int64_t stride = Product<Isa>::padded(l.out);
    const float* scale = p_.at<float>(l.scale);
    const float* bias = p_.at<float>(l.bias);
    const auto in = static_cast<std::int32_t>(l.in);
    const std::uint16_t* first = s.popcounts.data() + t * stride;
    if (bits_ == 1) {
      for (std::int64_t n = 0; n < l.out; ++n)
        y[n] = scale[n] * static_cast<float>(in - 2 * static_cast<std::int32_t>(first[n])) + bias[n];
    } else {
      for (std::int64_t n = 0; n < l.out; ++n) {
        std::int32_t acc = 0;
        for (int i = 0; i < bits_; ++i)
          acc += (in - 2 * static_cast<std::int32_t>(first[i * kTile * stride + n])) * (1 << i);
        y[n] = scale[n] * static_cast<float>(acc) + bias[n];
      }
    }
    const float* down = p_.at<float>(l.down);
    const float* up = p_.at<float>(l.up);  // (rank, out)
    for (std::int64_t r = 0; r < l.rank; ++r) {
      const float weight = dot(down + r * l.in, x, l.in);
      for (std::int64_t n = 0; n < l.out; ++n) y[n] += weight * up[r * l.out + n];
    }
  }

  // The signs of row t, where scale, bias and all that follows is folded into intervals.
  void fold(const LinearSpec& l, std::int64_t t, std::uint8_t* bits, const Scratch& s) const {
    const std::uint16_t* x = s.popcounts.data() + t * Product<Isa>::padded(l.out);
    const auto *low = p_.at<std::uint16_t>(l.low), *range = p_.at<std::uint16_t>(l.range),
               *flip = p_.at<std::uint16_t>(l.flip);
    std::memset(bits, 0, row_bytes(l.out));
    // Rows of intervals are padded to whole bytes, and padding is never inside.
    for (std::int64_t n = 0; n < l.out; n += 8)
      bits[n / 8] = Isa::inside(x + n, low + n, range + n, flip + n);
  }

  // Queries, keys and values of the tokens from `start` on, as bits per head.
  void project(const float* x, std::int64_t b, std::int64_t start, Scratch& s) {
    const std::int64_t count = std::min(kTile, length_ - start);
    const float* rows = x + (b * length_ + start) * p_.hidden;
    for (int kind : {kQuery, kKey, kValue}) {
      const LinearSpec& l = p_.linear[kind];
      quantize(rows, count, l, s.packed.data());
      multiply(l, s.packed.data(), count, s);
      for (std::int64_t t = 0; t < count; ++t) {
        if (l.folded) {
          fold(l, t, s.inner.data(), s);
          for (std::int64_t h = 0; h < p_.heads; ++h)
            place(kind, b, h, start + t, 0, s.inner.data(), h * p_.head_dim);
          continue;
        }
        output(l, t, rows + t * l.in, s.projected.data(), s);
        for (std::int64_t h = 0; h < p_.heads; ++h)
          quantize_head(kind, b, h, start + t, s.projected.data() + h * p_.head_dim, s);
      }
    }
  }

  // Bits [first, first + head_dim) of a row to where attention reads them.
  void place(int kind, std::int64_t b, std::int64_t h, std::int64_t t, int plane,
             const std::uint8_t* row, std::int64_t first) {
    const std::int64_t head = b * p_.heads + h, bytes = row_bytes(p_.head_dim);
    // Queries lie by tiles of tokens, keys and values by planes.
    std::uint8_t* target = kind == kQuery ? query_rows(head, t - t % kTile) +
                                                (plane * kTile + t % kTile) * bytes
                           : (kind == kKey ? keys_ : values_).data() +
                                 ((head * kv_bits_ + plane) * length_ + t) * bytes;
    for (std::int64_t k = 0; k < p_.head_dim; k += 64) {
      const auto count = static_cast<int>(std::min<std::int64_t>(64, p_.head_dim - k));
      store64(target + k / 8, extract_bits(row, first + k, count));
    }
  }

  void quantize_head(int kind, std::int64_t b, std::int64_t h, std::int64_t t, const float* x,
                     Scratch& s) {
    const Section& shifts = kind == kQuery ? a_.query_shift
                            : kind == kKey ? a_.key_shift
                                           : a_.value_shift;
    const Section& clips = kind == kQuery ? a_.query_clip
                           : kind == kKey ? a_.key_clip
                                          : a_.value_clip;
    const int bits = kind == kQuery ? bits_ : kv_bits_;
    const std::int64_t bytes = row_bytes(p_.head_dim);
    quantize_row(x, p_.head_dim, p_.at<float>(shifts) + h * p_.head_dim,
                 p_.at<float>(clips)[h], bits,
                 [&](int plane) { return s.inner.data() + plane * bytes; });
    for (int plane = 0; plane < bits; ++plane)
      place(kind, b, h, t, plane, s.inner.data() + plane * bytes, 0);
    // Queries by token, keys and values by rank: a loop over keys then runs over neighbours.
    const std::int64_t head = (b * p_.heads + h) * length_;
    const std::int64_t score = a_.score_rank, context = a_.context_rank;
    if (kind == kQuery)
      estimate(a_.score_left, score, h, x, query_estimates_.data() + (head + t) * score, 1);
    if (kind == kKey)
      estimate(a_.score_right, score, h, x, key_estimates_.data() + head * score + t, length_);
    if (kind == kValue)
      estimate(a_.context_left, context, h, x, value_estimates_.data() + head * context + t, length_);
  }

  // A head's low-rank map of x, its numbers `stride` apart.
  void estimate(const Section& map, std::int64_t rank, std::int64_t h, const float* x, float* out,
                std::int64_t stride) const {
    for (std::int64_t r = 0; r < rank; ++r)
      out[r * stride] = dot(p_.at<float>(map) + (h * rank + r) * p_.head_dim, x, p_.head_dim);
  }

  static std::int64_t woven_bytes(std::int64_t in, std::int64_t out) {
    return interleaved_bytes(Isa::layout, in, out);
  }

  // Bit planes (bits, kTile, row_bytes) of the queries of a tile that begins at token `start`.
  std::uint8_t* query_rows(std::int64_t head, std::int64_t start) {
    const std::int64_t tiles = ceil_div(length_, kTile);
    return queries_.data() +
           (head * tiles * kTile + start) * bits_ * row_bytes(p_.head_dim);
  }

  // Keys and values of one head, interleaved as the product wants its weights.
  void weave(std::int64_t head) {
    const std::int64_t dims = p_.head_dim, bytes = row_bytes(dims), columns = row_bytes(length_);
    std::vector<std::uint8_t> transposed(round_up(dims, 64) * columns);
    for (int plane = 0; plane < kv_bits_; ++plane) {
      const std::int64_t n = head * kv_bits_ + plane;
      interleave(Isa::layout, keys_.data() + n * length_ * bytes, bytes, dims, length_,
                 woven_keys_.data() + n * woven_bytes(dims, length_));
      transpose(values_.data() + n * length_ * bytes, transposed.data());
      interleave(Isa::layout, transposed.data(), columns, length_, dims,
                 woven_values_.data() + n * woven_bytes(length_, dims));
      for (std::int64_t d = 0; d < dims; ++d) {
        int ones = 0;
        for (std::int64_t w = 0; w < columns; w += 8)
          ones += popcount64(load64(transposed.data() + d * columns + w));
        ones_[n * dims + d] = static_cast<std::uint16_t>(ones);
      }
    }
  }

  // From a row of bits per token to a row of bits per dimension.
  void transpose(const std::uint8_t* source, std::uint8_t* target) const {
    const std::int64_t bytes = row_bytes(p_.head_dim), columns = row_bytes(length_);
    for (std::int64_t word = 0; word < bytes; word += 8)
      for (std::int64_t block = 0; block < columns; block += 8) {
        std::uint64_t square[64] = {};
        const std::int64_t count = std::min<std::int64_t>(64, length_ - block * 8);
        for (std::int64_t t = 0; t < count; ++t)
          square[t] = load64(source + (block * 8 + t) * bytes + word);
        transpose64(square);
        for (std::int64_t d = 0; d < 64; ++d)
          store64(target + (word * 8 + d) * columns + block, square[d]);
      }
  }

  // Bit j of word i to bit i of word j, by swapping ever smaller blocks.
  static void transpose64(std::uint64_t* a) {
    std::uint64_t mask = 0x00000000ffffffffu;
    for (int width = 32; width; width /= 2, mask ^= mask << width)
      for (int k = 0; k < 64; k = (k + width + 1) & ~width) {
        const std::uint64_t swapped = ((a[k] >> width) ^ a[k + width]) & mask;
        a[k] ^= swapped << width;
        a[k + width] ^= swapped;
      }
  }

  void forbid(const std::uint8_t* mask) {
    forbidden_.assign(batch_ * length_, 0);
    if (!mask) return;
    for (std::int64_t t = 0; t < batch_ * length_; ++t) forbidden_[t] = mask[t] ? 0 : 255;
  }

  Head head(std::int64_t b, std::int64_t h) const {
    const std::int64_t n = b * p_.heads + h, dims = p_.head_dim;
    return Head{
        length_, dims, bits_, kv_bits_,
        woven_keys_.data() + n * kv_bits_ * woven_bytes(dims, length_),
        woven_values_.data() + n * kv_bits_ * woven_bytes(length_, dims),
        ones_.data() + n * kv_bits_ * dims,
        forbidden_.data() + b * length_,
        a_.boolean != 0,
        p_.at<float>(a_.score_scale)[h], p_.at<float>(a_.probability_scale)[h],
        p_.at<float>(a_.probability_shift)[h],
        a_.score_rank, a_.context_rank,
        key_estimates_.data() + n * length_ * a_.score_rank,
        value_estimates_.data() + n * length_ * a_.context_rank,
        p_.at<float>(a_.context_right) + h * dims * a_.context_rank,
        p_.at<float>(a_.value_scale) + h * dims,
        p_.at<float>(a_.context_bias) + h * dims,
    };
  }

  // Tables of all heads, where every one can be served by them.
  void tabulate() {
    for (std::int64_t h = 0; h < p_.heads; ++h) {
      const Head view = head(0, h);
      if (!ScoreTable::serves(view)) return tables_.clear();
      tables_.emplace_back(view);
    }
  }

  // Attention and all that follows it, for the tokens from `start` on.
  void finish(const float* x, float* y, std::int64_t b, std::int64_t start, Scratch& s) {
    const std::int64_t count = std::min(kTile, length_ - start), hidden = p_.hidden;
    for (std::int64_t h = 0; h < p_.heads; ++h) attend(b, h, start, count, s);
    const float* rows = x + (b * length_ + start) * hidden;
    linear(kAttentionOutput, s.context.data(), count, s.attended.data(), s);
    normalise(0, s.attended.data(), rows, count);
    feed_forward(count, y + (b * length_ + start) * hidden, s);
  }

  void attend(std::int64_t b, std::int64_t h, std::int64_t start, std::int64_t count, Scratch& s) {
    const Head view = head(b, h);
    const std::int64_t n = b * p_.heads + h;
    s.attention(view, tables_.empty() ? nullptr : &tables_[h], query_rows(n, start),
                query_estimates_.data() + (n * length_ + start) * a_.score_rank, count,
                s.context.data() + h * p_.head_dim, p_.hidden);
  }

  void linear(int kind, const float* x, std::int64_t count, float* y, Scratch& s) const {
    const LinearSpec& l = p_.linear[kind];
    quantize(x, count, l, s.packed.data());
    multiply(l, s.packed.data(), count, s);
    for (std::int64_t t = 0; t < count; ++t) output(l, t, x + t * l.in, y + t * l.out, s);
  }

  void normalise(int which, float* y, const float* residual, std::int64_t count) const {
    const NormSpec& norm = p_.norm[which];
    for (std::int64_t t = 0; t < count; ++t)
      add_and_normalise(y + t * p_.hidden, residual + t * p_.hidden, p_.at<float>(norm.weight),
                        p_.at<float>(norm.bias), norm.eps, p_.hidden);
  }

  void feed_forward(std::int64_t count, float* y, Scratch& s) const {
    const LinearSpec &up = p_.linear[kFfnUp], &down = p_.linear[kFfnDown];
    quantize(s.attended.data(), count, up, s.packed.data());
    multiply(up, s.packed.data(), count, s);
    if (up.folded) {
      for (std::int64_t t = 0; t < count; ++t)
        fold(up, t, s.inner.data() + t * row_bytes(up.out), s);
    } else {
      for (std::int64_t t = 0; t < count; ++t) {
        output(up, t, s.attended.data() + t * up.in, s.up.data() + t * up.out, s);
        activate(s.up.data() + t * up.out, up.out);
      }
      quantize(s.up.data(), count, down, s.inner.data());
    }
    multiply(down, s.inner.data(), count, s);
    for (std::int64_t t = 0; t < count; ++t)
      output(down, t, s.up.data() + t * down.in, y + t * down.out, s);
    normalise(1, y, s.attended.data(), count);
  }

  void activate(float* x, std::int64_t n) const {
    switch (p_.activation) {
      case kGelu: for (std::int64_t i = 0; i < n; ++i) x[i] = gelu(x[i]); break;
      case kGeluTanh: for (std::int64_t i = 0; i < n; ++i) x[i] = gelu_tanh(x[i]); break;
      case kRelu: for (std::int64_t i = 0; i < n; ++i) x[i] = x[i] > 0 ? x[i] : 0.0f; break;
      case kSilu: for (std::int64_t i = 0; i < n; ++i) x[i] = silu(x[i]); break;
      case kFoldedOnly: break;
    }
  }

  const Program& p_;
  const AttentionSpec& a_;
  const std::int64_t batch_, length_;
  const int bits_, kv_bits_;
  std::vector<std::uint8_t> queries_, keys_, values_, woven_keys_, woven_values_;
  std::vector<std::uint16_t> ones_, forbidden_;
  std::vector<float> query_estimates_, key_estimates_, value_estimates_;
  std::vector<ScoreTable> tables_;
};

}  // namespace
}  // namespace bipft
