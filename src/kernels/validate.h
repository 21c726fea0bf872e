// Preconditions of every operation: shapes, dtypes, pointers, ids in range. A breach is a
// programmer's mistake and ends the program. What a backend accepts beyond that (its cache types,
// say) it checks itself.
#pragma once

#include "kernels/ops_attention.h"
#include "kernels/ops_dense.h"
#include "kernels/ops_moe.h"

namespace longshore::kernels {

void validate(const EmbedParams& params);
void validate(const GatherRowsParams& params);
void validate(const RmsNormParams& params);
void validate(const LinearParams& params);
void validate(const HeadLinearParams& params);
void validate(const RopeParams& params);
void validate(const SiluMulParams& params);
void validate(const LatentStoreParams& params);
void validate(const IndexKeyStoreParams& params);
void validate(const IndexSelectParams& params);
void validate(const SparseMlaParams& params);
void validate(const RouterParams& params);
void validate(const ExpertsParams& params);

}  // namespace longshore::kernels
