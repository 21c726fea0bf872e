// An observer that keeps what the goldens hold: hidden states per layer, chosen positions, index
// scores, routes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "model/observer.h"

namespace longshore {

// Appends over the chunks of one sequence, so that row t is position t.
class Recorder : public model::Observer {
 public:
  // scores: keep index scores, in rows of `context` numbers.
  explicit Recorder(int64_t context, bool scores) : context_(context), keep_scores_(scores) {}

  std::map<int64_t, std::vector<float>> hidden;       // layer -> [S, hidden]
  std::map<int64_t, std::vector<int32_t>> selected;   // full layer -> [S, top_k]
  std::map<int64_t, std::vector<float>> scores;       // full layer -> [S, context]
  std::map<int64_t, std::vector<int32_t>> route_ids;  // MoE layer -> [S, k]
  std::map<int64_t, std::vector<float>> route_weights;

  void on_hidden(int64_t layer, ConstMatrixView x) override { append<float>(x, hidden[layer]); }
  MatrixView score_buffer(int64_t, int64_t tokens) override {
    if (!keep_scores_) return {};
    buffer_.assign(static_cast<size_t>(tokens * context_), 0);
    return {reinterpret_cast<std::byte*>(buffer_.data()), DType::kF32, tokens, context_, context_};
  }
  void on_selection(int64_t layer, ConstMatrixView chosen, const int32_t*) override {
    append<int32_t>(chosen, selected[layer]);
    if (keep_scores_) scores[layer].insert(scores[layer].end(), buffer_.begin(), buffer_.end());
  }
  void on_routes(int64_t layer, ConstMatrixView ids, ConstMatrixView weights) override {
    append<int32_t>(ids, route_ids[layer]);
    append<float>(weights, route_weights[layer]);
  }

 private:
  template <typename T>
  static void append(ConstMatrixView from, std::vector<T>& to) {
    for (int64_t r = 0; r < from.rows; ++r)
      to.insert(to.end(), from.row_as<T>(r), from.row_as<T>(r) + from.cols);
  }

  int64_t context_;
  bool keep_scores_;
  std::vector<float> buffer_;
};

}  // namespace longshore
