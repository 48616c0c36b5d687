// result[pixel, co] = epilogue(Σ over taps and ci of x[pixel moved by tap, ci] · w[co, tap, ci]): implicit GEMM.
// x: [n, h, w, ci / 4] vec4f. w: panels of 32 output channels or rows, the reduction ordered (ky, kx, ci), in blocks of
// 4·PARTS channels (lib/kernels/product.ts reads them, ACROSS as in matmul.wgsl). Pixels outside the picture are zeros.
// An invocation owns TM consecutive output pixels × 4·TN channels in registers; eight lanes share a panel's block,
// and the pixels, which they read and pass on as in matmul.wgsl.

@compute @workgroup_size(8, ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let row = (workgroup.y * ROWS + id.y) * TM;
  let group = workgroup.x * TN * 8u + id.x;
  var from_w: array<u32, TN>;
  /*unroll*/ for (var j = 0u; j < TN; j++) {
    from_w[j] = columns_from(group + j * 8u, 0u);
  }
  var places: array<Place, OWN>; // of the pixels that this lane reads
  /*unroll*/ for (var g = 0u; g < OWN; g++) {
    places[g] = place_of_pixel(row + g * SHARE + id.x % SHARE);
  }
  var sums: array<array<vec4f, TN>, TM>;
  var k = 0u;
  for (var ky = 0u; ky < params.kernel_height; ky++) {
    for (var kx = 0u; kx < params.kernel_width; kx++) {
      var from_x: array<u32, OWN>;
      var inside: array<bool, OWN>;
      /*unroll*/ for (var g = 0u; g < OWN; g++) {
        let tap = tap_of(places[g], ky, kx);
        inside[g] = tap.inside;
        from_x[g] = tap.pixel * params.tap_blocks * PARTS - params.x_skipped;
      }
      for (var b = 0u; b < params.tap_blocks; b++) {
        var w: array<array<array<vec4f, PARTS>, 4>, TN>;
        /*unroll*/ for (var j = 0u; j < TN; j++) {
          /*unroll*/ for (var c = 0u; c < 4u; c++) {
            w[j][c] = block(from_w[j], k, c);
          }
        }
        var own: array<array<vec4f, PARTS>, OWN>;
        /*unroll*/ for (var g = 0u; g < OWN; g++) {
          /*unroll*/ for (var p = 0u; p < PARTS; p++) {
            own[g][p] = select(vec4f(0), x_at(from_x[g] + b * PARTS + p), inside[g]);
          }
        }
        /*unroll*/ for (var i = 0u; i < TM; i++) {
          /*unroll*/ for (var p = 0u; p < PARTS; p++) {
            var x = own[i / SHARE][p];
            /*unroll*/ for (var s = 0u; s < PASSED; s++) {
              x = subgroupBroadcast(x, i % SHARE);
            }
            /*unroll*/ for (var j = 0u; j < TN; j++) {
              if (ACROSS) {
                sums[i][j] += x.x * w[j][0][p] + x.y * w[j][1][p] + x.z * w[j][2][p] + x.w * w[j][3][p];
              } else {
                sums[i][j] += vec4f(dot(x, w[j][0][p]), dot(x, w[j][1][p]), dot(x, w[j][2][p]), dot(x, w[j][3][p]));
              }
            }
          }
        }
        k++;
      }
    }
  }
  /*unroll*/ for (var j = 0u; j < TN; j++) {
    store_columns(group + j * 8u);
    /*unroll*/ for (var i = 0u; i < TM; i++) {
      if (row + i < params.pixels) {
        store(sums[i][j], row + i, group + j * 8u);
      }
    }
  }
}
