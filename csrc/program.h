// A compiled encoder block: one contiguous buffer with all that the block's operator reads, the
// weights interleaved for one path. It holds offsets, no pointers, so it can be copied, shared and
// passed through torch as one tensor.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bipft {

// Popcounts have 16 bits, and 65535 stands for one that there is not.
constexpr std::int64_t kWidest = 65534;

// Bits of a weight, at most.
constexpr std::int64_t kWeightBits = 4;

// Tokens that go through linears together, at most.
constexpr std::int64_t kTokens = 64;

// Dimensions of a head, at most, whose scores are counted as bytes: four times a product of so many
// has 31 bits.
constexpr std::int64_t kWidestHead = 4096;

// The largest integer of a product of `in` codes: codes are at most 2^bits - 1.
constexpr std::int64_t largest_sum(std::int64_t in, std::int64_t bits, std::int64_t weight_bits) {
  return in * ((1 << bits) - 1) * ((1 << weight_bits) - 1);
}

// Where an array lies in the buffer: offset in bytes, and number of entries.
struct Section {
  std::int64_t offset = 0, count = 0;
};

// How the integers of a linear layer, or of attention, are counted.
enum class Kernel : std::int64_t { kPopcount, kInt8 };

// What the codes of a token are scaled with: nothing, or the root mean square or the largest
// magnitude of its shifted activations.
enum class Magnitude : std::int64_t { kNone, kRms, kMax };

// y = scale * acc + bias + up (down x), acc the integer of the product: the sum of codes of
// activations (`bits` planes of signs) times codes of weights (`weight_bits` planes). Where
// `folded`, the output is wanted as a sign only: low, range and flip say which popcounts give +1
// (see `inside`), and scale and bias are not there. `in` is 0 where a block does not have this
// linear.
struct LinearPart {
  std::int64_t in, out, bits, weight_bits, rank, folded;
  Kernel kernel;
  Magnitude magnitude;  // the token's own, which `scale` and `activation_scale` are multiplied with
  double activation_scale;
  // Interleaved, bytes. kPopcount: planes of padded_rows(out) rows, the least significant first.
  // kInt8: codes of a byte each.
  Section weights;
  Section correction;        // (out), int32, kInt8 alone: acc = 2 * dot product + correction
  Section shift;             // (in)
  Section scale, bias;       // (out)
  Section down;              // (rank, in)
  Section up;                // (rank, out): the loop that adds a rank runs over neighbours
  Section low, range, flip;  // (out), padded to eights
};

enum class NormKind : std::int64_t { kNone, kLayer, kRms, kAffine };

struct NormPart {
  NormKind kind;
  std::int64_t width;
  std::int64_t first;  // before the input, not after the residual sum
  double eps;
  Section weight, bias;  // bias: empty for none
};

// Which numbers of a head turn together.
enum class Pairs : std::int64_t { kNone, kHalves, kNeighbours };

struct AttentionPart {
  std::int64_t heads, key_value_heads, head_dim, bits, key_value_bits;
  std::int64_t boolean;    // Bi-Attention: codes say which scores are not negative
  std::int64_t window;     // keys farther away are not attended to; kWidest for no limit
  std::int64_t positions;  // rows of the tables of positions; 0 for no tables
  Kernel kernel;           // tables of positions are read by planes alone
  Pairs rotary;
  std::int64_t rotary_values;
  std::int64_t score_rank, context_rank;
  LinearPart query, key, value, output;
  NormPart norm;
  Section query_shift, value_scale, context_bias;  // (heads, head_dim)
  Section key_shift, value_shift;                  // (key_value_heads, head_dim)
  Section query_clip, score_scale;                 // (heads)
  Section probability_step, probability_shift;     // (heads)
  Section key_clip, value_clip;                    // (key_value_heads)
  Section score_left, score_right;                 // (heads, rank, head_dim)
  Section context_left, context_right;             // (heads, rank, head_dim)
  // Signs, (heads, positions, row_bytes(head_dim)), and (heads); empty where there are none.
  Section position_key, position_query, position_key_scale, position_query_scale;
};

enum class Activation : std::int64_t {
  kOnlyFolded,  // whatever it is, it is part of intervals
  kGelu,
  kGeluTanh,
  kQuickGelu,
  kRelu,
  kSilu,
};

// down(activation(up x)), or down(activation(gate x) * up x).
struct FeedForwardPart {
  Activation activation;
  LinearPart up, gate, down;
  NormPart norm;
};

// MobileBERT's, between the hidden states and a narrower block.
struct BottleneckPart {
  LinearPart input, query, output;
  NormPart input_norm, query_norm, output_norm;
};

// What every compiled buffer begins with.
struct Header {
  std::uint64_t magic;
  std::int64_t bytes;
  std::int64_t path;  // the number of the path whose layout the weights have

  template <class T>
  const T* at(const Section& s) const {
    return reinterpret_cast<const T*>(reinterpret_cast<const std::uint8_t*>(this) + s.offset);
  }
};

// One linear layer alone.
struct LinearProgram : Header {
  static constexpr std::uint64_t kMagic = 0x316e694c79614642;
  LinearPart linear;

  // As Program::view.
  static const LinearProgram& view(const std::uint8_t* data, std::int64_t size);
};

struct Program : Header {
  static constexpr std::uint64_t kMagic = 0x346b6c4279614642;
  std::int64_t hidden;  // of the input and the output
  std::int64_t stream;  // of the residual stream; less than `hidden` in a bottleneck
  std::int64_t tokens;  // that go through the linears together, at most
  AttentionPart attention;
  BottleneckPart bottleneck;
  Section feed_forward;  // FeedForwardPart, one after the other

  bool narrow() const { return bottleneck.input.in != 0; }

  // A view of a buffer. Throws std::invalid_argument where it is not a program of this release for
  // this processor, or where a width or an array is not what the others make necessary.
  static const Program& view(const std::uint8_t* data, std::int64_t size);
};

}  // namespace bipft
