#include "kernels/moe_config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/file.h"

namespace longshore::kernels {
namespace {

struct Field {
  const char* key;
  int64_t MoeTile::*member;
  int64_t most;
};
constexpr Field kFields[] = {
    {"BLOCK_SIZE_M", &MoeTile::block_m, 1024}, {"BLOCK_SIZE_N", &MoeTile::block_n, 1024},
    {"BLOCK_SIZE_K", &MoeTile::block_k, 1024}, {"GROUP_SIZE_M", &MoeTile::group_m, 1024},
    {"num_warps", &MoeTile::warps, 32},        {"num_stages", &MoeTile::stages, 16},
};

std::optional<int64_t> number_of_tokens(std::string_view key) {
  int64_t tokens = 0;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), tokens);
  if (error != std::errc{} || end != key.data() + key.size() || tokens < 1) return std::nullopt;
  return tokens;
}

Result<MoeTile> parse_tile(const nlohmann::json& entry, const std::string& key,
                           const std::string& where) {
  MoeTile tile;
  for (const Field& field : kFields) {
    const auto found = entry.is_object() ? entry.find(field.key) : entry.end();
    if (found == entry.end() || !found->is_number_integer()) {
      return fail(ErrorKind::kUsage, "{}: entry \"{}\" has no whole number {}", where, key,
                  field.key);
    }
    const auto value = found->get<int64_t>();
    if (value < 1 || value > field.most) {
      return fail(ErrorKind::kUsage, "{}: entry \"{}\": {} is {}, not 1 to {}", where, key,
                  field.key, value, field.most);
    }
    tile.*field.member = value;
  }
  return tile;
}

double factor(int64_t a, int64_t b) {
  return std::abs(std::log2(static_cast<double>(a)) - std::log2(static_cast<double>(b)));
}

double distance(const MoeTile& a, const MoeTile& b) {
  double sum = factor(a.block_m, b.block_m);
  for (const Field& field : kFields) sum += factor(a.*field.member, b.*field.member);
  return sum;
}

}  // namespace

std::string moe_config_name(int64_t experts, int64_t intermediate, std::string_view device,
                            std::string_view dtype) {
  std::string name(device);
  std::replace(name.begin(), name.end(), ' ', '_');
  return fmt::format("E={},N={},device_name={},dtype={},block_shape=[128, 128].json", experts,
                     intermediate, name, dtype);
}

Result<MoeTable> parse_moe_config(std::string_view text, const std::string& where) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object()) {
    return fail(ErrorKind::kUsage, "{}: not a JSON object", where);
  }
  MoeTable table;
  for (const auto& [key, entry] : json.items()) {
    // Some files say by which compiler they were tuned.
    if (key == "triton_version") continue;
    const std::optional<int64_t> tokens = number_of_tokens(key);
    if (!tokens) {
      return fail(ErrorKind::kUsage, "{}: key \"{}\" is no number of tokens", where, key);
    }
    LS_TRY(table[*tokens], parse_tile(entry, key, where));
  }
  if (table.empty()) return fail(ErrorKind::kUsage, "{}: no entries", where);
  return table;
}

const MoeTile& nearest_tokens(const MoeTable& table, int64_t tokens) {
  LS_CHECK(!table.empty());
  const auto above = table.lower_bound(tokens);
  if (above == table.begin()) return above->second;
  const auto below = std::prev(above);
  if (above == table.end() || tokens - below->first <= above->first - tokens) return below->second;
  return above->second;
}

size_t nearest_variant(std::span<const MoeVariant> variants, const MoeTile& tile) {
  LS_CHECK(!variants.empty());
  size_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < variants.size(); ++i) {
    const double away = distance(variants[i].tile, tile);
    if (away >= least) continue;
    least = away;
    best = i;
  }
  return best;
}

MoeTable MoeConfigs::load(std::span<const MoeVariant> variants, const std::string& name) const {
  const std::string path = (std::filesystem::path(folder_) / name).string();
  constexpr int64_t kMostBytes = 1 << 20;
  const auto text = read_file(path, kMostBytes, ErrorKind::kUsage);
  if (!text) {
    log_(fmt::format("experts: built-in tiles: {}", text.error().message));
    return {};
  }
  auto table = parse_moe_config(*text, path);
  if (!table) {
    log_(fmt::format("experts: built-in tiles: {}", table.error().message));
    return {};
  }
  std::string chosen;
  for (const auto& [tokens, tile] : *table) {
    chosen += fmt::format("{}{}: {}", chosen.empty() ? "" : ", ", tokens,
                          variants[nearest_variant(variants, tile)].name);
  }
  log_(fmt::format("experts: tiles from {}, the nearest compiled: {}", path, chosen));
  return std::move(*table);
}

std::optional<size_t> MoeConfigs::variant(std::span<const MoeVariant> variants, int64_t experts,
                                          int64_t intermediate, std::string_view dtype,
                                          int64_t tokens) {
  if (folder_.empty()) return std::nullopt;
  const std::string name = moe_config_name(experts, intermediate, device_, dtype);
  auto found = tables_.find(name);
  if (found == tables_.end()) found = tables_.emplace(name, load(variants, name)).first;
  if (found->second.empty()) return std::nullopt;
  return nearest_variant(variants, nearest_tokens(found->second, tokens));
}

}  // namespace longshore::kernels
