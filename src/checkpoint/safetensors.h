// The safetensors format: reading headers, writing small files.
//
// Source: the format's description in the README of github.com/huggingface/safetensors: 8 bytes
// little-endian header length, a JSON object {name: {dtype, shape, data_offsets}}, then the data,
// which the tensors cover without holes. Threading: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/tensor.h"

namespace longshore {

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t begin = 0;  // bytes from the start of the file
  int64_t end = 0;
};

// file: the file's content, or any prefix that holds the whole header; file_bytes: the size of the
// whole file; where: its path, for messages. Entries come in the order of their data. Whatever does
// not follow the format, and every dtype that DType lacks, is refused with kModel.
Result<std::vector<SafetensorsEntry>> parse_safetensors(std::span<const std::byte> file,
                                                        int64_t file_bytes,
                                                        const std::string& where);

struct SafetensorsTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;  // contiguous, product(shape) * dtype_size(dtype) bytes
};

// Writes a file with these tensors, widest dtype first so that each is aligned to its element. The
// file is written as base/output_file.h says. Names must differ. kIo.
Result<void> write_safetensors(const std::string& path, std::span<const SafetensorsTensor> tensors);

}  // namespace longshore
