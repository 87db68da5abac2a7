// From named arrays and facts to a program.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "path.h"

namespace bipft {

// A borrowed, contiguous array: uint8 (packed bits), uint16 (intervals) or float.
struct Array {
  const void* data;
  std::int64_t count;
  int bytes_per_entry;
};

// What a block is compiled from. Arrays have the names of the block's own tensors, facts those of
// its description (bipft_compress/spec.py): runtime/program.py.
struct Source {
  std::map<std::string, Array> arrays;
  std::map<std::string, double> numbers;
  std::map<std::string, std::string> words;
};

// The activation functions that need not be folded, by their names in transformers.
std::vector<std::string> activation_names();

// Throws std::invalid_argument where an array is missing, of another size than the facts say, or
// one that no kernel reads. `planes`: pairs of planes from which products are counted as 8-bit
// integers; 0 for what is fastest on the path.
std::vector<std::uint8_t> compile_block(const Source& source, const Path& path,
                                        std::int64_t planes = 0);

// The same for one linear layer alone, named `linear`.
std::vector<std::uint8_t> compile_linear(const Source& source, const Path& path);

}  // namespace bipft
