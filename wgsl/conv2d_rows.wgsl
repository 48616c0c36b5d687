// The convolution of conv2d.wgsl one number of the reduction at a time, for input widths that do not fill blocks:
// x [n, h, w, ci] and w [co, ky, kx, ci] lie in rows. Eight pixels × 4·TN channels an invocation.

@compute @workgroup_size(8, ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let row = (workgroup.y * ROWS + id.y) * TM;
  let group = workgroup.x * TN * 8u + id.x;
  let length = params.kernel_height * params.kernel_width * params.channels;
  let height = params.height * params.upsample;
  let width = params.input_width * params.upsample;
  var picture: array<u32, TM>;
  var above: array<u32, TM>;
  var before: array<u32, TM>;
  /*unroll*/ for (var i = 0u; i < TM; i++) {
    let pixel = params.first_pixel + row + i;
    let line = pixel / params.result_width;
    picture[i] = line / params.result_height * params.height * params.input_width;
    above[i] = line % params.result_height * params.stride - params.top;
    before[i] = pixel % params.result_width * params.stride - params.left;
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
        let pixel = picture[i] + y / params.upsample * params.input_width + x / params.upsample;
        from_x[i] = pixel * params.channels - params.x_skipped;
      }
      for (var c = 0u; c < params.channels; c++) {
        var w: array<vec4f, TN>;
        /*unroll*/ for (var j = 0u; j < TN; j++) {
          let at = (group + j * 8u) * 4u * length + k;
          w[j] = vec4f(weight(at), weight(at + length), weight(at + 2u * length), weight(at + 3u * length));
        }
        /*unroll*/ for (var i = 0u; i < TM; i++) {
          let x = select(0.0, x_at(from_x[i] + c), inside[i]);
          /*unroll*/ for (var j = 0u; j < TN; j++) {
            sums[i][j] += x * w[j];
          }
        }
        k++;
      }
    }
  }
  /*unroll*/ for (var i = 0u; i < TM; i++) {
    /*unroll*/ for (var j = 0u; j < TN; j++) {
      if (row + i < params.pixels) {
        store(sums[i][j], row + i, group + j * 8u);
      }
    }
  }
}
