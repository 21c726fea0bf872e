// Generated checkpoints: the true shapes and dtypes with random numbers, for measuring without the
// true weights.
#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "base/memory.h"
#include "checkpoint/bulk.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/impl.h"
#include "checkpoint/json.h"
#include "checkpoint/layout.h"

namespace longshore {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kPiece = int64_t{8} << 20;  // a multiple of the generator's 8 bytes
constexpr std::string_view kFamily = "glm-5.1:";
constexpr std::string_view kUsage =
    "write glm-5.1:dense=D,moe=M with D + M >= 1, and mtp=0 or mtp=1";

// A counter-based generator: number i of a stream depends on nothing but the stream and i, so that
// pieces may be filled in any order. Source: the finaliser of Steele, Lea and Flood's SplitMix64
// (2014).
uint64_t random_bits(uint64_t stream, uint64_t i) {
  uint64_t x = stream + i * 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

// FNV-1a, then mixed with the seed: a tensor's numbers depend on its name, not on its neighbours.
uint64_t stream_of(std::string_view name, uint64_t seed) {
  uint64_t hash = 0xCBF29CE484222325U;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  return random_bits(hash, seed + 1);
}

// Eight random E4M3 numbers without NaN: the two codes 0x7f and 0xff become 0x3f and 0xbf.
uint64_t without_nan(uint64_t codes) {
  constexpr uint64_t kMagnitudes = 0x7F7F7F7F7F7F7F7FU;
  const uint64_t nan = ((codes & kMagnitudes) + 0x0101010101010101U) & ~kMagnitudes;
  return codes ^ (nan >> 1);
}

double e4m3_magnitude(unsigned code) {
  const unsigned exponent = (code >> 3) & 15U;
  const unsigned fraction = code & 7U;
  return exponent == 0 ? std::ldexp(fraction, -9)
                       : std::ldexp(8 + fraction, static_cast<int>(exponent) - 10);
}

// The standard deviation of what without_nan() gives.
double e4m3_deviation() {
  double sum = std::pow(e4m3_magnitude(0x3F), 2);
  for (unsigned code = 0; code < 0x7F; ++code) sum += std::pow(e4m3_magnitude(code), 2);
  return std::sqrt(sum / 128);
}

// How a tensor is filled: uniform in [centre - spread, centre + spread], or random FP8 codes.
struct Fill {
  uint64_t stream = 0;
  float centre = 0;
  float spread = 0;
};

void fill_fp8(const Fill& fill, int64_t begin, int64_t bytes, std::byte* to) {
  const auto first = static_cast<uint64_t>(begin) / 8;
  const int64_t whole = bytes / 8;
  for (int64_t i = 0; i < whole; ++i) {
    const uint64_t codes = without_nan(random_bits(fill.stream, first + static_cast<uint64_t>(i)));
    std::memcpy(to + i * 8, &codes, 8);
  }
  const uint64_t rest = without_nan(random_bits(fill.stream, first + static_cast<uint64_t>(whole)));
  std::memcpy(to + whole * 8, &rest, static_cast<size_t>(bytes % 8));
}

// Four BF16 numbers from one random word, 16 bits each; the fp32 value is cut, not rounded.
void fill_bf16(const Fill& fill, int64_t begin, int64_t bytes, std::byte* to) {
  const float step = fill.spread / 32768.0F;
  for (int64_t done = 0; done < bytes; done += 8) {
    uint64_t bits = random_bits(fill.stream, static_cast<uint64_t>(begin + done) / 8);
    std::array<uint16_t, 4> numbers{};
    for (uint16_t& number : numbers) {
      const float value = fill.centre + static_cast<float>(static_cast<int16_t>(bits)) * step;
      number = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
      bits >>= 16;
    }
    std::memcpy(to + done, numbers.data(), static_cast<size_t>(std::min<int64_t>(8, bytes - done)));
  }
}

void fill_f32(const Fill& fill, int64_t begin, int64_t bytes, std::byte* to) {
  const float step = fill.spread / 32768.0F;
  for (int64_t done = 0; done < bytes; done += 4) {
    const uint64_t bits = random_bits(fill.stream, static_cast<uint64_t>(begin + done) / 4);
    const float value = fill.centre + static_cast<float>(static_cast<int16_t>(bits)) * step;
    std::memcpy(to + done, &value, 4);
  }
}

// Collects tensors and their places in one stretch of memory.
class Plan {
 public:
  Plan(const GlmConfig& config, std::string where, uint64_t seed)
      : config_(config), where_(std::move(where)), seed_(seed) {
    for (const TensorSpec& spec : checkpoint_layout(config)) {
      if (!spec.optional) add(spec);
    }
  }

  std::vector<TensorInfo> tensors;
  std::vector<Fill> fills;
  std::vector<int64_t> offsets;
  int64_t bytes = 0;

 private:
  void add(const TensorSpec& spec) {
    // Uniform numbers in [-spread, spread] have the deviation spread / sqrt(3).
    const auto in = static_cast<double>(spec.shape.back());
    const auto matrix_spread = static_cast<float>(std::sqrt(3.0 / in));
    switch (spec.role) {
      case TensorRole::kLinear:
        return add_linear(spec);
      case TensorRole::kMatrix:
        // Rows of the embedding are activations, about 1 each.
        return add(spec.name, DType::kBF16, spec.shape, 0,
                   spec.name == "model.embed_tokens.weight" ? 1.0F : matrix_spread);
      case TensorRole::kNorm:
        return add(spec.name, DType::kBF16, spec.shape, 1, 0.1F);
      case TensorRole::kNormBias:
        return add(spec.name, DType::kBF16, spec.shape, 0, 0.1F);
      case TensorRole::kRouterBias:
        return add(spec.name, DType::kF32, spec.shape, 0, 0.01F);
    }
  }

  void add_linear(const TensorSpec& spec) {
    const int64_t out = spec.shape[0];
    const int64_t in = spec.shape[1];
    add(spec.name, DType::kF8E4M3, spec.shape, 0, 0);
    // Weights of deviation 1 / sqrt(in); blocks differ, so that taking a wrong one shows.
    static const double kDeviation = e4m3_deviation();
    const auto scale = static_cast<float>(1 / (std::sqrt(static_cast<double>(in)) * kDeviation));
    const std::vector<int64_t> shape = {
        (out + config_.quant_block_rows - 1) / config_.quant_block_rows,
        (in + config_.quant_block_cols - 1) / config_.quant_block_cols};
    add(spec.name + std::string(kScaleSuffix), DType::kF32, shape, scale, scale / 4);
  }

  void add(const std::string& name, DType dtype, const std::vector<int64_t>& shape, float centre,
           float spread) {
    TensorInfo tensor;
    tensor.name = name;
    tensor.dtype = dtype;
    tensor.shape = shape;
    tensor.file = where_;
    tensor.bytes = dtype_size(dtype);
    for (const int64_t dimension : shape) tensor.bytes *= dimension;
    fills.push_back({stream_of(name, seed_), centre, spread});
    offsets.push_back(bytes);
    bytes += (tensor.bytes + kAlignment - 1) / kAlignment * kAlignment;
    tensors.push_back(std::move(tensor));
  }

  const GlmConfig& config_;
  std::string where_;
  uint64_t seed_;
};

// The numbers of GLM-5.1's config.json.
GlmConfig glm_5_1(int64_t dense, int64_t moe, int64_t mtp) {
  GlmConfig config;
  config.vocab_size = 154880;
  config.hidden_size = 6144;
  config.num_layers = dense + moe;
  config.first_k_dense = dense;
  config.intermediate_size = 12288;
  config.moe_intermediate_size = 2048;
  config.num_experts = 256;
  config.experts_per_token = 8;
  config.num_shared_experts = 1;
  config.routed_scaling_factor = 2.5F;
  config.norm_topk_prob = true;
  config.num_heads = 64;
  config.q_lora_rank = 2048;
  config.kv_lora_rank = 512;
  config.qk_nope_head_dim = 192;
  config.qk_rope_head_dim = 64;
  config.v_head_dim = 256;
  config.rope_theta = 1e6F;
  config.index_num_heads = 32;
  config.index_head_dim = 128;
  config.index_top_k = 2048;
  config.indexer_types.assign(static_cast<size_t>(dense + moe), IndexerType::kFull);
  config.num_mtp_layers = mtp;
  config.rms_norm_eps = 1e-5F;
  config.max_positions = 202752;
  config.eos_token_ids = {154820, 154827, 154829};
  return config;
}

struct Counts {
  std::optional<int64_t> dense;
  std::optional<int64_t> moe;
  std::optional<int64_t> mtp;
};

// "dense=3" into counts; false when it is anything else, or given twice.
bool parse_count(std::string_view item, Counts& counts) {
  const size_t equals = item.find('=');
  if (equals == std::string_view::npos) return false;
  const std::string_view key = item.substr(0, equals);
  const std::string_view text = item.substr(equals + 1);
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || text.front() == '-') return false;
  if (number > (key == "mtp" ? 1 : 1000)) return false;
  std::optional<int64_t>* count = key == "dense" ? &counts.dense
                                  : key == "moe" ? &counts.moe
                                  : key == "mtp" ? &counts.mtp
                                                 : nullptr;
  if (count == nullptr || *count) return false;
  *count = number;
  return true;
}

Result<GlmConfig> parse_specification(std::string_view specification) {
  const auto refused = [&] {
    return fail(ErrorKind::kUsage, "synthetic model '{}' is not understood; {}",
                printable(specification), kUsage);
  };
  if (!specification.starts_with(kFamily)) return refused();
  Counts counts;
  std::string_view rest = specification.substr(kFamily.size());
  while (true) {
    const size_t comma = rest.find(',');
    if (!parse_count(rest.substr(0, comma), counts)) return refused();
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  if (!counts.dense || !counts.moe || *counts.dense + *counts.moe == 0) return refused();
  return glm_5_1(*counts.dense, *counts.moe, counts.mtp.value_or(0));
}

}  // namespace

Result<Checkpoint> Checkpoint::synthetic_from_config(const GlmConfig& config,
                                                     const std::string& where, uint64_t seed,
                                                     int threads, const Topology& topology,
                                                     const LoadProgress& progress,
                                                     const CancelToken& cancel) {
  Plan plan(config, where, seed);
  const int64_t available = available_memory();
  if (plan.bytes > available) {
    return fail(
        ErrorKind::kMemory,
        "{}: needs {:.1f} GB of host memory but only {:.1f} GB are free; ask for fewer layers",
        where, static_cast<double>(plan.bytes) / 1e9, static_cast<double>(available) / 1e9);
  }
  LS_TRY(Mapping memory, Mapping::anonymous(plan.bytes));
  std::vector<int64_t> sizes;
  std::vector<Matrix> matrices;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    plan.tensors[i].data = memory.data() + plan.offsets[i];
    sizes.push_back(plan.tensors[i].bytes);
    append_matrix(plan.tensors[i], i, 0, matrices);
  }
  std::byte* base = memory.writable();
  const auto fill = [&](const Piece& piece) -> Result<void> {
    std::byte* to = base + plan.offsets[piece.range] + piece.begin;
    const Fill& numbers = plan.fills[piece.range];
    switch (plan.tensors[piece.range].dtype) {
      case DType::kF8E4M3:
        fill_fp8(numbers, piece.begin, piece.bytes, to);
        break;
      case DType::kBF16:
        fill_bf16(numbers, piece.begin, piece.bytes, to);
        break;
      default:
        fill_f32(numbers, piece.begin, piece.bytes, to);
        break;
    }
    return {};
  };
  LS_TRY_VOID(
      for_each_piece(cut_for_nodes(sizes, matrices, kPiece, std::min(topology.size(), threads)),
                     threads, topology, progress, cancel, "generating the model", fill));
  auto impl = std::make_unique<Impl>();
  impl->config = config;
  impl->where = where;
  impl->tensors = std::move(plan.tensors);
  impl->mappings.push_back(std::move(memory));
  impl->mapping_names.push_back(where);
  LS_TRY_VOID(impl->finish());
  return Checkpoint(std::move(impl));
}

Result<GlmConfig> Checkpoint::synthetic_config(std::string_view specification) {
  return parse_specification(specification);
}

Result<Checkpoint> Checkpoint::synthetic(std::string_view specification, uint64_t seed, int threads,
                                         const Topology& topology, const LoadProgress& progress,
                                         const CancelToken& cancel) {
  LS_TRY(const GlmConfig config, parse_specification(specification));
  return synthetic_from_config(config, std::string(specification), seed, threads, topology,
                               progress, cancel);
}

}  // namespace longshore
