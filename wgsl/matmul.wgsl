// result[m, n] = epilogue(a[m, k] · w[n, k]ᵀ), the weights in panels of 32 columns (see lib/kernels/kernel.ts).
// a: rows of k / 4 vec4f. w: block b of panel p holds 4·PARTS values along k for each of 32 columns.
// An invocation owns TM rows × 4·TN columns in registers: four adjacent columns of each of TN panels, so that the eight
// lanes of a workgroup read a panel's block side by side. ROWS groups of rows share a workgroup.
//
// Ladder (GFLOP/s on llvmpipe, 4096×320×320): naive 4; tiles in workgroup memory with barriers 3–6; 8×8 registers from
// buffers 18; panels and operands in textures, 16×8 registers 60.

@compute @workgroup_size(8, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let row = (group.y * ROWS + id.y) * TM;
  let panel = group.x * TN;
  var from_a: array<u32, TM>; // rows and panels past the end repeat the last: what they compute is not stored
  /*unroll*/ for (var i = 0u; i < TM; i++) {
    from_a[i] = min(row + i, params.m - 1u) * params.blocks * PARTS;
  }
  var from_w: array<u32, TN>;
  /*unroll*/ for (var j = 0u; j < TN; j++) {
    from_w[j] = min(panel + j, params.panels - 1u) * params.blocks * 32u + id.x * 4u;
  }
  var sums: array<array<vec4f, TN>, TM>;
  for (var k = 0u; k < params.blocks; k++) {
    var w: array<array<array<vec4f, PARTS>, 4>, TN>;
    /*unroll*/ for (var j = 0u; j < TN; j++) {
      /*unroll*/ for (var c = 0u; c < 4u; c++) {
        w[j][c] = block(from_w[j] + k * 32u + c);
      }
    }
    /*unroll*/ for (var i = 0u; i < TM; i++) {
      /*unroll*/ for (var p = 0u; p < PARTS; p++) {
        let a = a_at(from_a[i] + k * PARTS + p);
        /*unroll*/ for (var j = 0u; j < TN; j++) {
          sums[i][j] += vec4f(dot(a, w[j][0][p]), dot(a, w[j][1][p]), dot(a, w[j][2][p]), dot(a, w[j][3][p]));
        }
      }
    }
  }
  /*unroll*/ for (var i = 0u; i < TM; i++) {
    /*unroll*/ for (var j = 0u; j < TN; j++) {
      if (row + i < params.m && panel + j < params.panels) {
        store(sums[i][j], row + i, (panel + j) * 8u + id.x);
      }
    }
  }
}
