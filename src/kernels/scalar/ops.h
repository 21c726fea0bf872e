// The operations whose cost is small beside the matrices': one scalar implementation for every host
// backend. Arguments have been validated.
//
// Threading: each call spreads its tokens over the pool; results do not depend on the number of
// threads.
#pragma once

#include "base/threads.h"
#include "kernels/ops_attention.h"
#include "kernels/ops_dense.h"
#include "kernels/ops_moe.h"

namespace longshore::kernels::scalar {

void embed(ThreadPool& pool, const EmbedParams& params);
void gather_rows(ThreadPool& pool, const GatherRowsParams& params);
void rope(ThreadPool& pool, const RopeParams& params);
void latent_store(ThreadPool& pool, const LatentStoreParams& params);
void index_key_store(ThreadPool& pool, const IndexKeyStoreParams& params);
void index_gather(const IndexGatherParams& params);
void router(ThreadPool& pool, const RouterParams& params);

// q [heads, cache.head_dim] fp32 of token t, as the keys of this cache are stored: after rope, and
// rotated for FP8 keys.
void index_query(const IndexSelectParams& params, int64_t t, float* q);

// The top_k highest of scores [n], equal scores by lower position first, positions ascending;
// entries past the count are -1. Returns the count, min(n, top_k). O(n): radix select over the
// scores' ordered bits.
int32_t select_top(const float* scores, int64_t n, int64_t top_k, int32_t* selected);
// The same where every one of n <= top_k positions is chosen and no score is needed.
int32_t select_all(int64_t n, int64_t top_k, int32_t* selected);

}  // namespace longshore::kernels::scalar
