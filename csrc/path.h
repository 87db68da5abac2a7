// A path: the kernels for one kind of processor, chosen when the program runs.
#pragma once

#include <cstdint>
#include <vector>

#include "bits.h"
#include "program.h"
#include "table.h"

namespace bipft {

struct Path {
  const char* name;
  Layout layout;
  bool (*supported)();
  // popcount(a XOR w), (count, out) at `stride`, of rows that are row_bytes(in) apart.
  void (*product)(const std::uint8_t* weights, std::int64_t in, std::int64_t out,
                  const std::uint8_t* activations, std::int64_t count, std::int32_t* result,
                  int threads);
  void (*layer)(const Program& program, const float* x, const std::uint8_t* mask, float* y,
                std::int64_t batch, std::int64_t length, int threads);
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
#ifdef BIPFT_NEON
extern const Path kNeon;
#endif

// The paths this processor can run, best first. Their order in the table is part of a program.
const std::vector<const Path*>& supported_paths();
// By name; throws std::invalid_argument where this build or processor lacks it.
const Path& path_by_name(const char* name);
// A stable number for a path, to recognise programs made for another.
std::int64_t path_number(const Path& path);

// Billions of binary multiply-accumulates a second that a path's instructions reach when they wait
// for no memory: no product is faster. One short run, a few milliseconds on vector paths.
double register_rate(const Path& path, int threads);

}  // namespace bipft
