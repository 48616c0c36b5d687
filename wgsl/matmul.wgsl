// result[b, m, n] = epilogue(a[b, m, k] · w[b, n, k]ᵀ). lib/kernels/product.ts reads w: weights in panels of 32 columns,
// or an activation in rows [n, k] or columns [k, n]. a: rows of k / 4 vec4f. k comes in blocks of 4·PARTS.
// An invocation owns TM rows × 4·TN columns in registers: four adjacent columns, TN times, 32 apart, so that the eight
// lanes of a workgroup read a panel's block side by side. ROWS groups of rows share a workgroup, batches lie along z.
// Rows and columns past the end are computed from whatever a read out of bounds gives, and not stored.
//
// Ladder (GFLOP/s on llvmpipe, 4096×320×320): naive 4; tiles in workgroup memory with barriers 3–6; 8×8 registers from
// buffers 18; panels and operands in textures, 16×8 registers 60.

@compute @workgroup_size(8, ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let row = (workgroup.y * ROWS + id.y) * TM;
  let group = workgroup.x * TN * 8u + id.x;
  let batch = workgroup.z;
  let from_a = params.a_first + (batch * params.m + row) * params.blocks * PARTS;
  var from_w: array<u32, TN>;
  /*unroll*/ for (var j = 0u; j < TN; j++) {
    from_w[j] = params.w_first + columns_from(group + j * 8u, batch);
  }
  var sums: array<array<vec4f, TN>, TM>;
  for (var k = 0u; k < params.blocks; k++) {
    var w: array<array<array<vec4f, PARTS>, 4>, TN>;
    /*unroll*/ for (var j = 0u; j < TN; j++) {
      /*unroll*/ for (var c = 0u; c < 4u; c++) {
        w[j][c] = block(from_w[j], k, c);
      }
    }
    /*unroll*/ for (var i = 0u; i < TM; i++) {
      /*unroll*/ for (var p = 0u; p < PARTS; p++) {
        let a = a_at(from_a + i * params.blocks * PARTS + k * PARTS + p);
        /*unroll*/ for (var j = 0u; j < TN; j++) {
          if (ACROSS) {
            sums[i][j] += a.x * w[j][0][p] + a.y * w[j][1][p] + a.z * w[j][2][p] + a.w * w[j][3][p];
          } else {
            sums[i][j] += vec4f(dot(a, w[j][0][p]), dot(a, w[j][1][p]), dot(a, w[j][2][p]), dot(a, w[j][3][p]));
          }
        }
      }
    }
  }
  /*unroll*/ for (var j = 0u; j < TN; j++) {
    store_columns(group + j * 8u);
    /*unroll*/ for (var i = 0u; i < TM; i++) {
      if (row + i < params.m) {
        store(sums[i][j], batch * params.m + row + i, group + j * 8u);
      }
    }
  }
}
