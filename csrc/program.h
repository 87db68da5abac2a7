// A compiled encoder layer: one contiguous buffer with all that the layer's operator reads, the
// weights interleaved for one path. It holds offsets, no pointers, so it can be copied, shared
// and passed through torch as one tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace bipft {

// Where an array lies in the buffer: offset in bytes, and number of entries.
struct Section {
  std::int64_t offset = 0, count = 0;
};

enum Kind { kQuery, kKey, kValue, kAttentionOutput, kFfnUp, kFfnDown, kKinds };

enum Activation : std::int32_t { kGelu, kGeluTanh, kRelu, kSilu, kFoldedOnly };

// y = scale * acc + bias + up (down x), acc the integer of the product. Where `folded`, the output
// is wanted as a sign only: low, range and flip say which popcounts give +1 (see `inside`), and
// scale and bias are not there.
struct LinearSpec {
  std::int64_t in, out, rank;
  float activation_scale;
  std::int32_t folded;
  Section weights, scale, bias, shift, down, up, low, range, flip;
};

struct AttentionSpec {
  std::int64_t boolean;  // 1 for Bi-Attention, without softmax
  std::int64_t score_rank, context_rank;
  // (heads, head_dim), then (heads,).
  Section query_shift, key_shift, value_shift, value_scale, context_bias;
  Section query_clip, key_clip, value_clip, score_scale, probability_scale, probability_shift;
  // (heads, rank, head_dim) each.
  Section score_left, score_right, context_left, context_right;
};

struct NormSpec {
  Section weight, bias;
  double eps;
};

struct Program {
  static constexpr std::uint64_t kMagic = 0x3172657961546642;
  std::uint64_t magic;
  std::int64_t bytes;
  std::int64_t path;  // the index of the path whose layout the weights have
  std::int64_t hidden, heads, head_dim, ffn, bits, key_value_bits;
  Activation activation;
  LinearSpec linear[kKinds];
  AttentionSpec attention;
  NormSpec norm[2];

  template <class T>
  const T* at(const Section& s) const {
    return reinterpret_cast<const T*>(reinterpret_cast<const std::uint8_t*>(this) + s.offset);
  }

  // A view of a buffer; throws std::invalid_argument where it is not a program.
  static const Program& view(const std::uint8_t* data, std::int64_t size) {
    if (size < static_cast<std::int64_t>(sizeof(Program)) ||
        reinterpret_cast<std::uintptr_t>(data) % 64 != 0)
      throw std::invalid_argument("the buffer is not a compiled layer");
    const auto& program = *reinterpret_cast<const Program*>(data);
    if (program.magic != kMagic || program.bytes != size)
      throw std::invalid_argument("the buffer is not a compiled layer of this release");
    return program;
  }
};

}  // namespace bipft
