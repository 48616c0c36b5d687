// result[m, n] = epilogue(a[m, k] · w[n, k]ᵀ) for few rows, where reading w is all the work.
//
// A workgroup of 256 invocations computes TM rows of the 32 columns of a panel: 32 invocations, side by side as a panel
// lies in memory, read one block of each column, and eight such lines take every eighth block of the reduction. The
// lines' sums then meet in workgroup memory, where line i adds those of row i, always in the same order.
// `halves` gives the 4·PARTS steps of a block as vec4f.

var<workgroup> shares: array<f32, SHARES>; // [row, line, column]

@compute @workgroup_size(32, 8)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let row = workgroup.y * TM;
  let panel = workgroup.x * params.blocks * 32u;
  var sums: array<f32, TM>;
  for (var k = id.y; k < params.blocks; k += 8u) {
    let w = halves(w_at(panel + k * 32u + id.x));
    /*unroll*/ for (var i = 0u; i < TM; i++) {
      let own = params.a_first + (row + i) * params.depth;
      /*unroll*/ for (var p = 0u; p < PARTS; p++) {
        let d = k * PARTS + p;
        sums[i] += select(0.0, dot(a_at(own + d), w[p]), d < params.depth);
      }
    }
  }
  /*unroll*/ for (var i = 0u; i < TM; i++) {
    shares[(i * 8u + id.y) * 32u + id.x] = sums[i];
  }
  workgroupBarrier();
  let column = workgroup.x * 32u + id.x;
  if (id.y >= TM || row + id.y >= params.m || column >= params.width) { return; }
  var total = 0.0;
  /*unroll*/ for (var line = 0u; line < 8u; line++) {
    total += shares[(id.y * 8u + line) * 32u + id.x];
  }
  let own = row + id.y;
  result[params.result_first + own * params.width + column] = epilogue(total, own, column);
}
