// The convolution of conv2d.wgsl for few output channels, where eight lanes side by side along the channels would mostly
// compute channels that are not there: here they lie along the pixels. An invocation owns TM pixels, eight apart, ×
// four channels; each lane of the subgroup reads the weights of one channel and passes them on.
//
// Ladder (128→3 at 256² on llvmpipe): lanes along channels 1, lanes along pixels 7.8 times as fast.

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let row = workgroup.y * TM * 8u + id.x;
  let group = workgroup.x;
  let from_w = columns_from(group, 0u);
  var places: array<Place, TM>;
  /*unroll*/ for (var i = 0u; i < TM; i++) {
    places[i] = place_of_pixel(row + i * 8u);
  }
  var sums: array<vec4f, TM>;
  var k = 0u;
  for (var ky = 0u; ky < params.kernel_height; ky++) {
    for (var kx = 0u; kx < params.kernel_width; kx++) {
      var from_x: array<u32, TM>;
      var inside: array<bool, TM>;
      /*unroll*/ for (var i = 0u; i < TM; i++) {
        let tap = tap_of(places[i], ky, kx);
        inside[i] = tap.inside;
        from_x[i] = tap.pixel * params.tap_blocks * PARTS - params.x_skipped;
      }
      for (var b = 0u; b < params.tap_blocks; b++) {
        let own = block(from_w, k, id.x % 4u);
        var w: array<array<vec4f, PARTS>, 4>;
        /*unroll*/ for (var c = 0u; c < 4u; c++) {
          /*unroll*/ for (var p = 0u; p < PARTS; p++) {
            w[c][p] = subgroupBroadcast(own[p], c);
          }
        }
        /*unroll*/ for (var i = 0u; i < TM; i++) {
          /*unroll*/ for (var p = 0u; p < PARTS; p++) {
            let x = select(vec4f(0), x_at(from_x[i] + b * PARTS + p), inside[i]);
            sums[i] += vec4f(dot(x, w[0][p]), dot(x, w[1][p]), dot(x, w[2][p]), dot(x, w[3][p]));
          }
        }
        k++;
      }
    }
  }
  store_columns(group);
  /*unroll*/ for (var i = 0u; i < TM; i++) {
    if (row + i * 8u < params.pixels) {
      store(sums[i], row + i * 8u, group);
    }
  }
}
