// Preconditions of every operation: shapes, dtypes, pointers and, where this code may read what the
// pointers name, ids in range. A breach is a programmer's mistake and ends the program. What a
// backend accepts beyond that (its cache types, say) it checks itself.
#pragma once

#include "kernels/ops_attention.h"
#include "kernels/ops_dense.h"
#include "kernels/ops_moe.h"
#include "kernels/ops_sample.h"

namespace longshore::kernels {

enum class Contents { kReadable, kOnDevice };

void validate(const EmbedParams& params, Contents contents = Contents::kReadable);
void validate(const GatherRowsParams& params, Contents contents = Contents::kReadable);
void validate(const RmsNormParams& params);
void validate(const LinearParams& params);
void validate(const HeadLinearParams& params);
void validate(const RopeParams& params);
void validate(const SiluMulParams& params);
void validate(const LatentStoreParams& params, Contents contents = Contents::kReadable);
void validate(const IndexKeyStoreParams& params, Contents contents = Contents::kReadable);
void validate(const IndexGatherParams& params, Contents contents = Contents::kReadable);
void validate(const IndexSelectParams& params, Contents contents = Contents::kReadable);
void validate(const SparseMlaParams& params, Contents contents = Contents::kReadable);
void validate(const RouterParams& params);
void validate(const ExpertsParams& params, Contents contents = Contents::kReadable);
void validate(const MaskRoutesParams& params, Contents contents = Contents::kReadable);
void validate(const AddParams& params);
void validate(const DrawParams& params);

}  // namespace longshore::kernels
