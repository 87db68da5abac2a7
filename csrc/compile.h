// From named arrays to a program.
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

// What a layer is compiled from. runtime/program.py gives the names and meanings.
struct Source {
  std::map<std::string, Array> arrays;
  std::map<std::string, double> numbers;
};

// Throws std::invalid_argument where an array is missing or of another size than the numbers say.
std::vector<std::uint8_t> compile_layer(const Source& source, const Path& path);

}  // namespace bipft
