// A path: the kernels for one kind of processor, chosen when the program runs.
#pragma once

#include <cstdint>
#include <vector>

#include "bits.h"
#include "program.h"
#include "table.h"

namespace bipft {

// What a block is called with; null where there is none.
struct Input {
  const float* x;               // (batch, length, hidden)
  const std::uint8_t* mask;     // (batch, length), 0 at padding
  const float* bias;            // (heads, 2 length - 1) by distance, added to scores
  const float *cos, *sin;       // (length, head_dim)
  const std::int32_t* offsets;  // (2 length - 1): row of a table of positions, by query - key
  std::int64_t batch, length;   // length is at most kWidest: values are summed over it
};

struct Path {
  const char* name;
  Layout layout;
  Dot dot;
  bool (*supported)();
  // popcount(a XOR w), (count, out) at `stride`, of rows that are row_bytes(in) apart.
  void (*product)(const std::uint8_t* weights, std::int64_t in, std::int64_t out,
                  const std::uint8_t* activations, std::int64_t count, std::int32_t* result,
                  int threads);
  // The outputs of a linear layer, (count, out).
  void (*binary_linear)(const LinearProgram& program, const float* x, std::int64_t count, float* y,
                        int threads);
  // The hidden states after a block, (batch, length, hidden).
  void (*block)(const Program& program, const Input& input, float* y, int threads);
  // Rows of a table or of words by id, (count, columns); std::out_of_range where there is none.
  void (*rows)(const Table& table, const std::int64_t* ids, std::int64_t count, float* out,
               int threads);
  void (*words)(const Words& words, const std::int64_t* ids, std::int64_t count, float* out,
                int threads);
  // y = x table^T + bias: x (count, columns), y (count, rows), bias (rows) or null.
  void (*linear)(const Table& table, const float* bias, const float* x, std::int64_t count,
                 float* y, int threads);
  // The product's instructions on registers alone: busy_macs multiply-accumulates a round.
  void (*busy)(std::int64_t rounds);
  std::int64_t busy_macs;
};

extern const Path kPortable;
#ifdef BIPFT_X86
extern const Path kAvx2, kAvx512;
#endif
#ifdef BIPFT_AMX
extern const Path kAmx;
#endif
#ifdef BIPFT_NEON
extern const Path kNeon;
#endif

// The paths this processor can run, best first. Their order in the table is part of a program.
const std::vector<const Path*>& supported_paths();
// By name; throws std::invalid_argument where this build or processor lacks it.
const Path& path_by_name(const char* name);
// A stable number for a path, to recognise programs made for another.
std::int64_t path_number(const Path& path);
// Its inverse; throws std::invalid_argument where this build or processor lacks the path.
const Path& path_by_number(std::int64_t number);

// Billions of binary multiply-accumulates a second that a path's instructions reach when they wait
// for no memory: no product is faster. One short run, a few milliseconds on vector paths.
double register_rate(const Path& path, int threads);

}  // namespace bipft
