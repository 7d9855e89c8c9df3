// The attention of IREE issue #11780 ("Enable fusion of attention blocks"), in the decomposed form in
// which nn.MultiheadAttention reaches the compiler: 160 heads of 8 queries and keys, head dim 32. The
// heads are cut out of [8, 20, 256] activations; the row maximum drags an unused i64 argmax along.
#abc = affine_map<(a, b, c) -> (a, b, c)>
#ab = affine_map<(a, b, c) -> (a, b)>
#ab0 = affine_map<(a, b, c) -> (a, b, 0)>
func.func @attention(%q: tensor<8x20x256xf32>, %k: tensor<8x20x256xf32>, %v: tensor<8x20x256xf32>)
    -> tensor<160x256xf32> {
  %zero = arith.constant 0.0 : f32
  %zero_index = arith.constant 0 : i64
  %lowest = arith.constant 0xFF800000 : f32
  %scale = arith.constant 0.176776692 : f32

  // Heads to the front; K transposed for the product; Q scaled.
  %q_split = tensor.expand_shape %q [[0], [1], [2, 3]] output_shape [8, 20, 8, 32]
      : tensor<8x20x256xf32> into tensor<8x20x8x32xf32>
  %k_split = tensor.expand_shape %k [[0], [1], [2, 3]] output_shape [8, 20, 8, 32]
      : tensor<8x20x256xf32> into tensor<8x20x8x32xf32>
  %v_split = tensor.expand_shape %v [[0], [1], [2, 3]] output_shape [8, 20, 8, 32]
      : tensor<8x20x256xf32> into tensor<8x20x8x32xf32>
  %q_rows = tensor.collapse_shape %q_split [[0], [1, 2], [3]]
      : tensor<8x20x8x32xf32> into tensor<8x160x32xf32>
  %k_rows = tensor.collapse_shape %k_split [[0], [1, 2], [3]]
      : tensor<8x20x8x32xf32> into tensor<8x160x32xf32>
  %v_rows = tensor.collapse_shape %v_split [[0], [1, 2], [3]]
      : tensor<8x20x8x32xf32> into tensor<8x160x32xf32>
  %heads = tensor.empty() : tensor<160x8x32xf32>
  %heads_t = tensor.empty() : tensor<160x32x8xf32>
  %q_heads = linalg.transpose ins(%q_rows : tensor<8x160x32xf32>)
      outs(%heads : tensor<160x8x32xf32>) permutation = [1, 0, 2]
  %k_heads = linalg.transpose ins(%k_rows : tensor<8x160x32xf32>)
      outs(%heads_t : tensor<160x32x8xf32>) permutation = [1, 2, 0]
  %v_heads = linalg.transpose ins(%v_rows : tensor<8x160x32xf32>)
      outs(%heads : tensor<160x8x32xf32>) permutation = [1, 0, 2]
  %q_scaled = linalg.generic {
      indexing_maps = [#abc, #abc], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%q_heads : tensor<160x8x32xf32>) outs(%heads : tensor<160x8x32xf32>) {
    ^bb0(%x: f32, %old: f32):
      %scaled = arith.mulf %x, %scale : f32
      linalg.yield %scaled : f32
  } -> tensor<160x8x32xf32>

  // S = Q K^T
  %square = tensor.empty() : tensor<160x8x8xf32>
  %square_zero = linalg.fill ins(%zero : f32) outs(%square : tensor<160x8x8xf32>)
      -> tensor<160x8x8xf32>
  %s = linalg.batch_matmul ins(%q_scaled, %k_heads : tensor<160x8x32xf32>, tensor<160x32x8xf32>)
      outs(%square_zero : tensor<160x8x8xf32>) -> tensor<160x8x8xf32>

  // Row maximum, with the index where it stands.
  %rows = tensor.empty() : tensor<160x8xf32>
  %rows_index = tensor.empty() : tensor<160x8xi64>
  %rows_lowest = linalg.fill ins(%lowest : f32) outs(%rows : tensor<160x8xf32>)
      -> tensor<160x8xf32>
  %rows_first = linalg.fill ins(%zero_index : i64) outs(%rows_index : tensor<160x8xi64>)
      -> tensor<160x8xi64>
  %max:2 = linalg.generic {
      indexing_maps = [#abc, #ab, #ab], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%s : tensor<160x8x8xf32>)
      outs(%rows_lowest, %rows_first : tensor<160x8xf32>, tensor<160x8xi64>) {
    ^bb0(%x: f32, %best: f32, %at: i64):
      %column = linalg.index 2 : index
      %here = arith.index_cast %column : index to i64
      %larger = arith.maximumf %x, %best : f32
      %is_larger = arith.cmpf ogt, %x, %best : f32
      %where = arith.select %is_larger, %here, %at : i64
      linalg.yield %larger, %where : f32, i64
  } -> (tensor<160x8xf32>, tensor<160x8xi64>)
  %max_column = tensor.expand_shape %max#0 [[0], [1, 2]] output_shape [160, 8, 1]
      : tensor<160x8xf32> into tensor<160x8x1xf32>

  // P = exp(S - max) / sum
  %shifted = linalg.generic {
      indexing_maps = [#abc, #ab0, #abc], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%s, %max_column : tensor<160x8x8xf32>, tensor<160x8x1xf32>)
      outs(%square : tensor<160x8x8xf32>) {
    ^bb0(%x: f32, %m: f32, %old: f32):
      %d = arith.subf %x, %m : f32
      linalg.yield %d : f32
  } -> tensor<160x8x8xf32>
  %exp = linalg.generic {
      indexing_maps = [#abc, #abc], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%shifted : tensor<160x8x8xf32>) outs(%square : tensor<160x8x8xf32>) {
    ^bb0(%x: f32, %old: f32):
      %e = math.exp %x : f32
      linalg.yield %e : f32
  } -> tensor<160x8x8xf32>
  %column_init = tensor.empty() : tensor<160x8x1xf32>
  %column_zero = linalg.fill ins(%zero : f32) outs(%column_init : tensor<160x8x1xf32>)
      -> tensor<160x8x1xf32>
  %sum = linalg.generic {
      indexing_maps = [#abc, #ab0], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%exp : tensor<160x8x8xf32>) outs(%column_zero : tensor<160x8x1xf32>) {
    ^bb0(%x: f32, %total: f32):
      %t = arith.addf %x, %total : f32
      linalg.yield %t : f32
  } -> tensor<160x8x1xf32>
  %p = linalg.generic {
      indexing_maps = [#abc, #ab0, #abc], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%exp, %sum : tensor<160x8x8xf32>, tensor<160x8x1xf32>)
      outs(%square : tensor<160x8x8xf32>) {
    ^bb0(%x: f32, %total: f32, %old: f32):
      %r = arith.divf %x, %total : f32
      linalg.yield %r : f32
  } -> tensor<160x8x8xf32>

  // O = P V, back to [160, 256]
  %heads_zero = linalg.fill ins(%zero : f32) outs(%heads : tensor<160x8x32xf32>)
      -> tensor<160x8x32xf32>
  %o_heads = linalg.batch_matmul ins(%p, %v_heads : tensor<160x8x8xf32>, tensor<160x8x32xf32>)
      outs(%heads_zero : tensor<160x8x32xf32>) -> tensor<160x8x32xf32>
  %o_init = tensor.empty() : tensor<8x160x32xf32>
  %o_rows = linalg.transpose ins(%o_heads : tensor<160x8x32xf32>)
      outs(%o_init : tensor<8x160x32xf32>) permutation = [1, 0, 2]
  %o_split = tensor.expand_shape %o_rows [[0], [1, 2], [3]] output_shape [8, 20, 8, 32]
      : tensor<8x160x32xf32> into tensor<8x20x8x32xf32>
  %o = tensor.collapse_shape %o_split [[0, 1], [2, 3]]
      : tensor<8x20x8x32xf32> into tensor<160x256xf32>
  return %o : tensor<160x256xf32>
}
