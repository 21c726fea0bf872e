// Tuned tile sizes of the experts' products, from files named and shaped as vLLM's and SGLang's
// fused_moe configurations: "E=257,N=256,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,
// 128].json" holds an object whose keys are numbers of tokens M and whose values are the six sizes
// of MoeTile.
//
// The kernels are compiled in few variants, so that a file's sizes choose the nearest of them.
//
// Ownership: values. Threading: const members from any thread. Errors: of parse_moe_config; what a
// file lacks or says wrongly is named in one line, and MoeConfigs then goes by the built-in rule.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace longshore::kernels {

struct MoeTile {
  int64_t block_m = 0;  // tokens; the file's BLOCK_SIZE_M
  int64_t block_n = 0;  // rows of a weight; BLOCK_SIZE_N
  int64_t block_k = 0;  // columns of a weight; BLOCK_SIZE_K
  int64_t group_m = 0;  // token tiles that pass over the same weights together; GROUP_SIZE_M
  int64_t warps = 0;    // of a block of threads; num_warps
  int64_t stages = 0;   // of loads in flight; num_stages
};

// By M, ascending.
using MoeTable = std::map<int64_t, MoeTile>;

// device: "NVIDIA H200". dtype: "fp8_w8a8" or "fp8_w8a16".
[[nodiscard]] std::string moe_config_name(int64_t experts, int64_t intermediate,
                                          std::string_view device, std::string_view dtype);

// where: the file, for messages. Error kUsage: not JSON, no entries, a key that is no number of
// tokens, a size that is missing or out of range.
[[nodiscard]] Result<MoeTable> parse_moe_config(std::string_view text, const std::string& where);

// The entry whose M is nearest to `tokens`; of two as near the smaller. table is not empty.
[[nodiscard]] const MoeTile& nearest_tokens(const MoeTable& table, int64_t tokens);

// A tile that has been compiled.
struct MoeVariant {
  std::string_view name;
  MoeTile tile;
};
// The index of the variant nearest to `tile`: least sum of the factors, in powers of two, between
// their sizes, those of block_m counted twice. variants is not empty; of two as near the first.
[[nodiscard]] size_t nearest_variant(std::span<const MoeVariant> variants, const MoeTile& tile);

// The tables of one device, read when first asked for.
class MoeConfigs {
 public:
  using Log = std::function<void(const std::string& line)>;
  // folder: empty for none, and nothing is logged. log gets one line for each table asked for:
  // where the tiles come from.
  MoeConfigs(std::string folder, std::string device, Log log)
      : folder_(std::move(folder)), device_(std::move(device)), log_(std::move(log)) {}

  // The variant for this many tokens, or nullopt: no usable file, the built-in rule holds.
  // intermediate: of the experts on this device.
  [[nodiscard]] std::optional<size_t> variant(std::span<const MoeVariant> variants, int64_t experts,
                                              int64_t intermediate, std::string_view dtype,
                                              int64_t tokens);

 private:
  [[nodiscard]] MoeTable load(std::span<const MoeVariant> variants, const std::string& name) const;

  std::string folder_;
  std::string device_;
  Log log_;
  std::map<std::string, MoeTable> tables_;  // by file name; empty: none
};

}  // namespace longshore::kernels
