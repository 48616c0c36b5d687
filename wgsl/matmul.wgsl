// result[b, m, n] = epilogue(a[b, m, k] · w[b, n, k]ᵀ). lib/kernels/product.ts reads w: weights in panels of 32 columns,
// or an activation in rows [n, k] or columns [k, n]. a: rows of k / 4 vec4f. k comes in blocks of 4·PARTS.
// An invocation owns TM rows × 4·TN columns in registers: four adjacent columns, TN times, 32 apart, so that the eight
// lanes of a workgroup read a panel's block side by side. ROWS groups of rows share a workgroup, batches lie along z.
// The workgroup's eight lanes want the same rows of a: SHARE = 8 lanes that are a subgroup read one row each and pass it on
// (PASSED = 1); with SHARE = 1 each reads all (PASSED = 0). OWN = rows that a lane reads = TM / SHARE, rounded up.
// Batches of an operand lie `gap` vec4s or blocks further apart than their size; the result's columns may be some of more.
// Rows and columns past the end are computed from whatever a read out of bounds gives, and not stored.
//
// Ladder (GFLOP/s on llvmpipe, two cores of a Zen 3, 1024×5120×640): tiles in workgroup memory with barriers 3–6; 8×8
// registers from buffers 10; panels and operands in textures, 16×8 registers 34; rows read once and passed on 47; of
// blocks of eight steps 16×4 registers, whose loop stays decoded (tileFor), 1.0 (neighbours busy) to 1.2 times that.

@compute @workgroup_size(8, ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let row = (workgroup.y * ROWS + id.y) * TM;
  let group = workgroup.x * TN * 8u + id.x;
  let batch = workgroup.z;
  var from_a: array<u32, OWN>;
  /*unroll*/ for (var g = 0u; g < OWN; g++) {
    from_a[g] = params.a_first + batch * params.a_gap + (batch * params.m + row + g * SHARE + id.x % SHARE) * params.blocks * PARTS;
  }
  var from_w: array<u32, TN>;
  /*unroll*/ for (var j = 0u; j < TN; j++) {
    from_w[j] = params.w_first + batch * params.w_gap + columns_from(group + j * 8u, batch);
  }
  var sums: array<array<vec4f, TN>, TM>;
  for (var k = 0u; k < params.blocks; k++) {
    var w: array<array<array<vec4f, PARTS>, 4>, TN>;
    /*unroll*/ for (var j = 0u; j < TN; j++) {
      /*unroll*/ for (var c = 0u; c < 4u; c++) {
        w[j][c] = block(from_w[j], k, c);
      }
    }
    var own: array<array<vec4f, PARTS>, OWN>;
    /*unroll*/ for (var g = 0u; g < OWN; g++) {
      /*unroll*/ for (var p = 0u; p < PARTS; p++) {
        own[g][p] = a_at(from_a[g] + k * PARTS + p);
      }
    }
    /*unroll*/ for (var i = 0u; i < TM; i++) {
      /*unroll*/ for (var p = 0u; p < PARTS; p++) {
        var a = own[i / SHARE][p];
        /*unroll*/ for (var s = 0u; s < PASSED; s++) {
          a = subgroupBroadcast(a, i % SHARE);
        }
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
  skipped = batch * params.result_gap;
  /*unroll*/ for (var j = 0u; j < TN; j++) {
    store_columns(params.first_group + group + j * 8u);
    /*unroll*/ for (var i = 0u; i < TM; i++) {
      if (row + i < params.m) {
        store(sums[i][j], batch * params.m + row + i, params.first_group + group + j * 8u);
      }
    }
  }
}
