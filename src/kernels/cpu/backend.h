// The cpu backend: bf16 activations and latents, FP8 index keys, fp32 sums; one table of inner
// loops per instruction set.
//
// Every operation cuts its work into pieces (weight tiles, tokens, heads, pages) for the pool.
// Scratch memory belongs to the backend and stays for the next call. A token's result may differ in
// the last bits between small and large batches, which take different loops; it never depends on
// the number of threads.
#pragma once

#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/tiles.h"

namespace longshore::kernels::cpu {

class CpuBackend final : public Backend {
 public:
  CpuBackend(ThreadPool& pool, const KernelTable& table);

  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] DType activation_dtype() const override { return DType::kBF16; }
  [[nodiscard]] DType latent_dtype() const override { return DType::kBF16; }
  [[nodiscard]] DType index_key_dtype() const override { return DType::kF8E4M3; }

  void embed(const EmbedParams& params) override;
  void gather_rows(const GatherRowsParams& params) override;
  void rms_norm(const RmsNormParams& params) override;
  void linear(const LinearParams& params) override;
  void head_linear(const HeadLinearParams& params) override;
  void rope(const RopeParams& params) override;
  void silu_mul(const SiluMulParams& params) override;

  void latent_store(const LatentStoreParams& params) override;
  void index_key_store(const IndexKeyStoreParams& params) override;
  void index_gather(const IndexGatherParams& params) override;
  void index_select(const IndexSelectParams& params) override;
  void sparse_mla(const SparseMlaParams& params) override;

  void router(const RouterParams& params) override;
  void experts(const ExpertsParams& params) override;

 private:
  // What one worker of the pool needs for itself.
  struct Worker {
    Scratch tile;
    Scratch second;
    Scratch third;
    Scratch fourth;
    std::vector<void*> targets;
    std::vector<const void*> sources;
  };
  // One tile of an expert times a block of the routes that chose it: [first, first + count) of
  // routes_.
  struct ExpertItem {
    int32_t expert;
    int32_t rows;
    int64_t row;
    int64_t first;
    int64_t count;
    int64_t panel;  // of the first route, in panels_; -1: no panels
  };
  // Consecutive tokens of one sequence whose index scores are computed together.
  struct ScoreGroup {
    int64_t first;
    int64_t count;
    int64_t keys;  // positions that the last of them sees
  };
  // The memory of one call's index scores, for the tokens from `first` on.
  struct ScoreRows {
    int64_t first;
    int64_t width;   // floats of a row
    float* scores;   // [tokens, width]
    float* weights;  // [tokens, heads] with every constant factor
    std::byte* queries;
    int64_t query_bytes;  // of one head
  };

  // y[.][0, rows) of the tile and inputs [first, first + count).
  void run_tile(Worker& worker, const Tile& tile, const void* const* inputs, const MatrixView& y,
                int64_t first, int64_t count, StoreMode mode);

  // target(i): where the tiles' rows of input i go, of `inputs` inputs; out [number, room, 64].
  template <typename Target>
  void store_tiles(Worker& worker, const Tile* tiles, int64_t number, int64_t inputs, int64_t room,
                   StoreMode mode, const float* out, Target target) {
    worker.targets.resize(static_cast<size_t>(inputs));
    const int64_t size = mode == StoreMode::kBF16 ? 2 : 4;
    for (int64_t j = 0; j < number; ++j) {
      for (int64_t i = 0; i < inputs; ++i) {
        worker.targets[static_cast<size_t>(i)] =
            reinterpret_cast<std::byte*>(target(i)) + j * kTileRows * size;
      }
      table_.store_tile(out + j * room * kTileRows, inputs, tiles[j].count, mode,
                        worker.targets.data());
    }
  }
  void linear_panels(const LinearParams& params);

  void sort_routes(const ExpertsParams& params);
  // Fills items_, item_bounds_ and panel_spans_ with rows [row_begin, row_end) of experts [begin,
  // end). An expert of many routes takes panels if its weights agree with `form`, which is that of
  // the first such expert.
  void plan_experts(const ExpertsParams& params, int32_t begin, int32_t end, bool down,
                    int64_t row_begin, int64_t row_end);
  [[nodiscard]] int64_t plan_panels(const ExpertsParams& params, int32_t expert, bool down);
  void plan_rows(const ExpertsParams& params, int32_t expert, int64_t panel, bool down,
                 int64_t row_begin, int64_t row_end);
  [[nodiscard]] int32_t expert_slab(const ExpertsParams& params, int32_t begin) const;
  void expert_hidden(const ExpertsParams& params, uint16_t* hidden, int64_t width);
  void expert_hidden_slab(const ExpertsParams& params, uint16_t* hidden, int64_t width);
  void expert_gate_up(const ExpertsParams& params, int64_t item, Worker& worker, uint16_t* hidden,
                      int64_t width);
  void expert_down(const ExpertsParams& params, float* routed, int64_t column, int64_t columns);
  void add_routes(const ExpertsParams& params, const float* routed, int64_t column,
                  int64_t columns);

  void select_chunk(const IndexSelectParams& params, int64_t first, int64_t count);
  void prepare_queries(const IndexSelectParams& params, const ScoreRows& rows, int64_t count);
  void score_pages(const IndexSelectParams& params, const ScoreRows& rows, const ScoreGroup& group,
                   int64_t first_page, int64_t pages, Worker& worker);
  void finish_selection(const IndexSelectParams& params, const ScoreRows& rows, int64_t t);

  const std::byte* widen_latent(const LatentCacheView& cache, const std::byte* token,
                                std::byte* to) const;
  void attend_heads(const SparseMlaParams& params, int64_t t, int64_t head, int64_t heads,
                    Worker& worker);

  ThreadPool& pool_;
  const KernelTable& table_;
  std::string name_;
  std::vector<Worker> workers_;

  std::vector<const void*> sources_;
  PreparedInputs inputs_;

  std::vector<int64_t> expert_start_;   // [num_experts + 1] into routes_
  std::vector<int64_t> routes_;         // routes in order of their expert
  std::vector<ExpertItem> items_;       // by node of the rows' memory
  std::vector<int64_t> item_bounds_;    // [nodes + 1] into items_
  std::vector<int64_t> expert_panels_;  // of plan_experts: an expert's first panel or -1
  std::vector<PanelSpan> panel_spans_;
  InputForm panel_form_;
  Panels panels_;
  std::vector<const void*> hidden_sources_;
  PreparedInputs hidden_inputs_;
  const std::function<void()>* meanwhile_ = nullptr;  // of the running call, until it is called
  Scratch hidden_;
  Scratch routed_;

  std::vector<ScoreGroup> groups_;
  std::vector<int64_t> group_start_;
  Scratch scores_;
  Scratch score_weights_;
  Scratch queries_;
};

}  // namespace longshore::kernels::cpu
