#include <algorithm>
#include <map>
#include <memory>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"

namespace longshore::cli {
namespace {

using nlohmann::ordered_json;

struct Flags {
  std::string model;
  bool as_json = false;
  bool tensors = false;
  bool no_verify = false;
};

struct Group {
  int64_t tensors = 0;
  int64_t bytes = 0;
};

// Where the bytes go: by dtype, and routed experts against the rest.
struct Summary {
  std::map<std::string, Group> by_dtype;
  Group experts;
  Group total;
};

Summary summarise(const Checkpoint& checkpoint) {
  Summary summary;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    for (Group* group :
         {&summary.by_dtype[std::string(dtype_name(tensor.dtype))], &summary.total}) {
      ++group->tensors;
      group->bytes += tensor.bytes;
    }
    if (tensor.name.find(".mlp.experts.") == std::string::npos) continue;
    ++summary.experts.tensors;
    summary.experts.bytes += tensor.bytes;
  }
  return summary;
}

ordered_json config_json(const GlmConfig& c) {
  const auto shared =
      std::count(c.indexer_types.begin(), c.indexer_types.end(), IndexerType::kShared);
  return {{"vocab_size", c.vocab_size},
          {"hidden_size", c.hidden_size},
          {"num_hidden_layers", c.num_layers},
          {"first_k_dense_replace", c.first_k_dense},
          {"intermediate_size", c.intermediate_size},
          {"moe_intermediate_size", c.moe_intermediate_size},
          {"n_routed_experts", c.num_experts},
          {"num_experts_per_tok", c.experts_per_token},
          {"n_shared_experts", c.num_shared_experts},
          {"num_attention_heads", c.num_heads},
          {"q_lora_rank", c.q_lora_rank},
          {"kv_lora_rank", c.kv_lora_rank},
          {"qk_nope_head_dim", c.qk_nope_head_dim},
          {"qk_rope_head_dim", c.qk_rope_head_dim},
          {"v_head_dim", c.v_head_dim},
          {"index_n_heads", c.index_num_heads},
          {"index_head_dim", c.index_head_dim},
          {"index_topk", c.index_top_k},
          {"index_shared_layers", shared},
          {"num_nextn_predict_layers", c.num_mtp_layers},
          {"max_position_embeddings", c.max_positions},
          {"rope_theta", c.rope_theta}};
}

ordered_json group_json(const Group& group) {
  return {{"tensors", group.tensors}, {"bytes", group.bytes}};
}

ordered_json tensors_json(const Checkpoint& checkpoint) {
  ordered_json list = ordered_json::array();
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    list.push_back({{"name", tensor.name},
                    {"dtype", dtype_name(tensor.dtype)},
                    {"shape", tensor.shape},
                    {"bytes", tensor.bytes},
                    {"file", tensor.file}});
  }
  return list;
}

void print_text(const ordered_json& report) {
  fmt::print("{}\n", report["model"].get<std::string>());
  for (const auto& [key, value] : report["config"].items())
    fmt::print("  {:<26} {}\n", key, value.dump());
  const auto line = [](const std::string& name, const ordered_json& group) {
    fmt::print("  {:<26} {:>7} tensors {:>10.3f} GB\n", name, group["tensors"].get<int64_t>(),
               static_cast<double>(group["bytes"].get<int64_t>()) / 1e9);
  };
  fmt::print("tensors\n");
  for (const auto& [name, group] : report["dtypes"].items()) line(name, group);
  line("routed experts", report["routed_experts"]);
  line("all", report["total"]);
  if (report.contains("tensors")) {
    for (const auto& tensor : report["tensors"]) {
      fmt::print("{:<64} {:<8} {:<16} {}\n", tensor["name"].get<std::string>(),
                 tensor["dtype"].get<std::string>(), tensor["shape"].dump(),
                 tensor["file"].get<std::string>());
    }
  }
  if (!report.contains("problems")) return;
  for (const auto& name : report["unused"]) fmt::print("unused: {}\n", name.get<std::string>());
  for (const auto& problem : report["problems"])
    fmt::print("problem: {}\n", problem.get<std::string>());
  fmt::print("{}\n", report["problems"].empty() ? "verified: every tensor is there and sound"
                                                : "NOT sound");
}

Result<void> run(const Flags& flags) {
  LS_TRY(const Checkpoint checkpoint, Checkpoint::open(flags.model));
  const Summary summary = summarise(checkpoint);
  ordered_json result = {{"model", checkpoint.where()},
                         {"config", config_json(checkpoint.config())}};
  for (const std::string& name : checkpoint.unindexed()) {
    fmt::print(stderr,
               "longshore: warning: {}: tensor {} is in a shard, but the index does not name it\n",
               checkpoint.where(), name);
  }
  result["unindexed"] = checkpoint.unindexed();
  result["unknown_config_keys"] = checkpoint.config().unknown_keys;
  for (const auto& [name, group] : summary.by_dtype) result["dtypes"][name] = group_json(group);
  result["routed_experts"] = group_json(summary.experts);
  result["total"] = group_json(summary.total);
  if (flags.tensors) result["tensors"] = tensors_json(checkpoint);
  bool sound = true;
  if (!flags.no_verify) {
    ByteProgress bar("verifying");
    LS_TRY(const Checkpoint::Verification verification,
           checkpoint.verify([&](int64_t done, int64_t total) { bar.update(done, total); },
                             interrupt_token()));
    bar.finish();
    result["problems"] = verification.problems;
    result["unused"] = verification.unused;
    sound = verification.problems.empty();
  }
  if (flags.as_json) {
    // A path may hold any bytes.
    fmt::print("{}\n", result.dump(2, ' ', false, ordered_json::error_handler_t::replace));
  } else {
    print_text(result);
  }
  if (sound) return {};
  const auto& problems = result["problems"];
  return fail(
      ErrorKind::kModel, "{}{}", problems.front().get<std::string>(),
      problems.size() == 1 ? "" : fmt::format(" (and {} more problems)", problems.size() - 1));
}

}  // namespace

Run add_inspect(CLI::App& command) {
  auto flags = std::make_shared<Flags>();
  command.add_option("MODEL", flags->model, "model directory")->required();
  command.add_flag("--json", flags->as_json, "print JSON");
  command.add_flag("--tensors", flags->tensors, "list every tensor");
  command.add_flag("--no-verify", flags->no_verify, "read headers only");
  return [flags] {
    const auto done = run(*flags);
    return done ? 0 : report(done.error());
  };
}

}  // namespace longshore::cli
