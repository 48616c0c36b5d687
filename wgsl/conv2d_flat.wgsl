// The convolution of conv2d.wgsl for input widths that do not fill a block of weights (3, 4, 9 …): the reduction
// (ky, kx, ci) is one list, and a block may hold several taps. x is read four channels at a time where they divide into
// fours (STEPS = 1), else one (STEPS = 4): `take` puts what it reads into its
// place of a vec4f. Places of the list past its end meet zero weights.

@compute @workgroup_size(8, ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let row = (workgroup.y * ROWS + id.y) * TM;
  let group = workgroup.x * TN * 8u + id.x;
  var from_w: array<u32, TN>;
  /*unroll*/ for (var j = 0u; j < TN; j++) {
    from_w[j] = columns_from(group + j * 8u, 0u);
  }
  var places: array<Place, TM>;
  /*unroll*/ for (var i = 0u; i < TM; i++) {
    places[i] = place_of_pixel(row + i);
  }
  var sums: array<array<vec4f, TN>, TM>;
  for (var k = 0u; k < params.blocks; k++) {
    var w: array<array<array<vec4f, PARTS>, 4>, TN>;
    /*unroll*/ for (var j = 0u; j < TN; j++) {
      /*unroll*/ for (var c = 0u; c < 4u; c++) {
        w[j][c] = block(from_w[j], k, c);
      }
    }
    /*unroll*/ for (var p = 0u; p < PARTS; p++) {
      let first = (k * PARTS + p) * 4u;
      var x: array<vec4f, TM>;
      /*unroll*/ for (var s = 0u; s < STEPS; s++) {
        let tap = (first + s) / CHANNELS;
        let ky = tap / KERNEL_WIDTH;
        let kx = tap % KERNEL_WIDTH;
        /*unroll*/ for (var i = 0u; i < TM; i++) {
          let seen = tap_of(places[i], ky, kx);
          let at = (seen.pixel * CHANNELS + (first + s) % CHANNELS) / (4u / STEPS) - params.x_skipped;
          x[i] = take(x[i], s, at, seen.inside);
        }
      }
      /*unroll*/ for (var i = 0u; i < TM; i++) {
        /*unroll*/ for (var j = 0u; j < TN; j++) {
          sums[i][j] += vec4f(dot(x[i], w[j][0][p]), dot(x[i], w[j][1][p]), dot(x[i], w[j][2][p]), dot(x[i], w[j][3][p]));
        }
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
