/* kernels_table.h - the members of a struct kernels, as the sources before it define them. */
.tokens = TOKENS, .panel = PANEL, .gemm = gemm_packed, .gemm_rows = gemm_rows, .pack = pack, .panel_rows = panel_rows,
.panel_tiles = panel_tiles, .dense = dense, .tile_int8 = tile_int8, .tile_f32 = tile_f32, .strip_int8 = strip_int8,
.strip_f32 = strip_f32, .panel_strips = panel_strips, .round = round_row,
.rms_norm = rms_norm, .rope = rope, .hadamard = hadamard, .silu_multiply = silu_multiply, .add_scaled = add_scaled,
.scale = scale_row, .exponentials = exponentials, .largest = largest, .log_sum_exp = log_sum_exp,
.divergence = divergence, .trellis_step = trellis_step, .gemm_turned = gemm_turned, .panel_lines = panel_lines,
.rms_norm_back = rms_norm_back, .silu_multiply_back = silu_multiply_back, .loss = loss_row, .adamw = adamw,
