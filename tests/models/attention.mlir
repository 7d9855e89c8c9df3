func.func @attention(%q: tensor<2x160x32xf32>, %k: tensor<2x160x32xf32>,
                     %v: tensor<2x160x32xf32>) -> tensor<2x160x32xf32> {
  %scale = arith.constant 0.125 : f32
  %empty = tensor.empty() : tensor<2x160x32xf32>
  %out = iree_linalg_ext.attention <{indexing_maps = [
      affine_map<(b, m, n, k1, k2) -> (b, m, k1)>, affine_map<(b, m, n, k1, k2) -> (b, k2, k1)>,
      affine_map<(b, m, n, k1, k2) -> (b, k2, n)>, affine_map<(b, m, n, k1, k2) -> ()>,
      affine_map<(b, m, n, k1, k2) -> (b, m, n)>]}>
    ins(%q, %k, %v, %scale
        : tensor<2x160x32xf32>, tensor<2x160x32xf32>, tensor<2x160x32xf32>, f32)
    outs(%empty : tensor<2x160x32xf32>) {
  ^bb0(%score: f32):
    iree_linalg_ext.yield %score : f32
  } -> tensor<2x160x32xf32>
  return %out : tensor<2x160x32xf32>
}
