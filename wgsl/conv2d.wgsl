// result[pixel, co] = epilogue(Σ over taps and ci of x[pixel moved by tap, ci] · w[co, tap, ci]): implicit GEMM.
// x: [n, h, w, ci / 4] vec4f. w: panels of 32 output channels, the reduction ordered (ky, kx, ci), in blocks of 4·PARTS
// channels (lib/kernels/product.ts reads them). Pixels outside the picture are zeros; `upsample` repeats pixels.
// An invocation owns TM consecutive output pixels × 4·TN channels in registers; eight lanes share a panel's block.

@compute @workgroup_size(8, ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let row = (workgroup.y * ROWS + id.y) * TM;
  let group = workgroup.x * TN * 8u + id.x;
  var from_w: array<u32, TN>;
  /*unroll*/ for (var j = 0u; j < TN; j++) {
    from_w[j] = columns_from(group + j * 8u, 0u);
  }
  let height = params.height * UPSAMPLE;
  let width = params.input_width * UPSAMPLE;
  var picture: array<u32, TM>; // where the pixel's picture begins, in pixels
  var above: array<u32, TM>; // the first tap's place in the (enlarged) picture; wraps below zero
  var before: array<u32, TM>;
  let pixel = params.first_pixel + row;
  var column = pixel % params.result_width;
  var line = pixel / params.result_width % params.result_height;
  var index = pixel / params.result_width / params.result_height;
  /*unroll*/ for (var i = 0u; i < TM; i++) { // counts on rather than divides: division is slow in software
    picture[i] = index * params.height * params.input_width;
    above[i] = line * params.stride - params.top;
    before[i] = column * params.stride - params.left;
    column++;
    let wraps = column == params.result_width;
    column = select(column, 0u, wraps);
    line = select(line, line + 1u, wraps);
    let ends = line == params.result_height;
    line = select(line, 0u, ends);
    index = select(index, index + 1u, ends);
  }
  var sums: array<array<vec4f, TN>, TM>;
  var k = 0u;
  for (var ky = 0u; ky < params.kernel_height; ky++) {
    for (var kx = 0u; kx < params.kernel_width; kx++) {
      var from_x: array<u32, TM>;
      var inside: array<bool, TM>;
      /*unroll*/ for (var i = 0u; i < TM; i++) {
        let y = above[i] + ky;
        let x = before[i] + kx;
        inside[i] = y < height && x < width;
        let pixel = picture[i] + y / UPSAMPLE * params.input_width + x / UPSAMPLE;
        from_x[i] = pixel * params.tap_blocks * PARTS - params.x_skipped;
      }
      for (var b = 0u; b < params.tap_blocks; b++) {
        var w: array<array<array<vec4f, PARTS>, 4>, TN>;
        /*unroll*/ for (var j = 0u; j < TN; j++) {
          /*unroll*/ for (var c = 0u; c < 4u; c++) {
            w[j][c] = block(from_w[j], k, c);
          }
        }
        /*unroll*/ for (var i = 0u; i < TM; i++) {
          /*unroll*/ for (var p = 0u; p < PARTS; p++) {
            let x = select(vec4f(0), x_at(from_x[i] + b * PARTS + p), inside[i]);
            /*unroll*/ for (var j = 0u; j < TN; j++) {
              sums[i][j] += vec4f(dot(x, w[j][0][p]), dot(x, w[j][1][p]), dot(x, w[j][2][p]), dot(x, w[j][3][p]));
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
