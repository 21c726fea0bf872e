// Declarations of the functions in this instruction set's table; kernel_table.h says what they do.
#pragma once

#include "kernels/cpu/kernel_table.h"

namespace longshore::kernels::cpu::LONGSHORE_ISA {

void prepare(const void* x, bool x_is_bf16, int64_t in, int64_t segment, InputKind kind, void* out);
void tile_product(const Tile& tile, const Inputs& x, float* out);

void pack_panel(const void* const* inputs, int64_t count, int64_t padded, void* panel);
void panel_product(const Tile* tiles, int64_t tile_count, const void* panels, int64_t panel_bytes,
                   int64_t count, float* out);
void store_tile(const float* tile, int64_t count, int rows, StoreMode mode, void* const* y);
void silu_mul_tile(const float* gate, const float* up, int64_t count, int rows, void* const* y);
void silu_mul(const float* gate, const float* up, int64_t n, StoreMode mode, void* y);
void rms_norm(const float* x, const float* weight, float eps, int64_t n, StoreMode mode, void* y);
void add_scaled(const float* x, float weight, int64_t n, float* y);
void index_scores(const float* products, int64_t heads, const float* head_weights,
                  const float* key_scales, int count, float* scores);
void attend(const AttendBlock& block);
void divide(const float* x, float total, int64_t n, StoreMode mode, void* y);

}  // namespace longshore::kernels::cpu::LONGSHORE_ISA
