// result[b, m, n] = epilogue(Σ_k a[b, m, k] · w[b, k, n]) one number at a time, for widths that do not fill vec4s;
// `weight` finds a number of w wherever it lies. Four rows × four columns an invocation; eight lanes along the columns.

@compute @workgroup_size(8, ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let row = (workgroup.y * ROWS + id.y) * 4u;
  let column = workgroup.x * 32u + id.x * 4u;
  let batch = workgroup.z;
  let from_a = params.a_first + (batch * params.m + row) * params.k;
  var sums: array<vec4f, 4>;
  for (var k = 0u; k < params.k; k++) {
    let w = vec4f(
      weight(k, column, batch), weight(k, column + 1u, batch),
      weight(k, column + 2u, batch), weight(k, column + 3u, batch));
    /*unroll*/ for (var i = 0u; i < 4u; i++) {
      sums[i] += a_at(from_a + i * params.k + k) * w;
    }
  }
  store_columns(column / 4u);
  /*unroll*/ for (var i = 0u; i < 4u; i++) {
    if (row + i < params.m) {
      store(sums[i], batch * params.m + row + i, column / 4u);
    }
  }
}
