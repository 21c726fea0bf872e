// The operations on a CUDA device, as in ops_dense.h, ops_attention.h and ops_moe.h: every pointer
// is device memory. They queue their work on the context's stream and return. A folder per
// operation holds its kernels.
#pragma once

#include <vector>

#include "device/cuda/context.h"
#include "kernels/moe_config.h"
#include "kernels/ops_attention.h"
#include "kernels/ops_dense.h"
#include "kernels/ops_moe.h"
#include "kernels/ops_sample.h"

namespace longshore::kernels::cuda {

using device::cuda::Context;
using device::cuda::ScratchScope;

// host [count] -> to [count] as kernel parameters: no copy engine, any count, capturable in a graph
// (where the values freeze).
void copy_ints(Context& context, const int32_t* host, int64_t count, int32_t* to);

void embed(Context& context, const EmbedParams& params);
void gather_rows(Context& context, const GatherRowsParams& params);
void rms_norm(Context& context, const RmsNormParams& params);
void linear(Context& context, const LinearParams& params);
void head_linear(Context& context, const HeadLinearParams& params);
void rope(Context& context, const RopeParams& params);
void silu_mul(Context& context, const SiluMulParams& params);

void latent_store(Context& context, const LatentStoreParams& params);
void index_key_store(Context& context, const IndexKeyStoreParams& params);
void index_gather(Context& context, const IndexGatherParams& params);
void index_select(Context& context, const IndexSelectParams& params);
void sparse_mla(Context& context, const SparseMlaParams& params);

void router(Context& context, const RouterParams& params);
// configs choose the tiles where they have a file for these experts. w8a8: where the tiles for many
// tokens of an expert run, activations are rounded to FP8.
void experts(Context& context, const ExpertsParams& params, MoeConfigs& configs, bool w8a8);
// Those of kMoeVariants that can compute these experts; empty: the generic kernels do.
[[nodiscard]] std::vector<size_t> expert_variants(Context& context, const ExpertsParams& params);
// experts() by that one.
void experts_by(Context& context, size_t variant, const ExpertsParams& params, bool w8a8);

// from [bytes] in device memory -> to, mapped host memory.
void copy_out(Context& context, const std::byte* from, int64_t bytes, std::byte* to);
// Queued work waits until *flag, mapped host memory, has reached value.
void wait_for_host(Context& context, const int32_t* flag, int32_t value);
void mask_routes(Context& context, const MaskRoutesParams& params);
void add(Context& context, const AddParams& params);
void draw(Context& context, const DrawParams& params);

}  // namespace longshore::kernels::cuda
