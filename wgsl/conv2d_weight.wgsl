// result[co, tap, ci] = Σ over pixels of y[pixel, co] · x[pixel moved by tap, ci]: products of columns over all pixels.
//
//   x: [n, h, w, inputs] of T, found by pixels.wgsl      y: [n, h′, w′, outputs] of Y      result: [outputs, taps, inputs] of T
//
// An invocation owns 4·TM outputs × TN T's of inputs, 8 apart, of one tap, in registers; eight lanes lie along the inputs
// and want the same outputs, which `outputs_at` gives four at a time: all STEPS · TM of them, or with SHARE = 8 each lane of
// a subgroup OWN, which it passes on (PASSED = 1), as in matmul.wgsl. STEPS pixels of a line are taken at a time, so that
// what is summed up is loaded and stored less often. Lines end anywhere; pixels beyond the end of one count as zeros.
// Workgroups along z take `share` pixels each, so that no invocation loops too often and GPUs are busy; workgroup_sums.wgsl
// adds what they leave.
//
// Ladder (GFLOP/s on llvmpipe, two cores of a Zen 3, 16 pictures of 8×8×128): a loop over lines around one over their pixels,
// the place of each line by divisions 21; by counting 26; one loop over pixels 49.

@compute @workgroup_size(8, ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let taps = params.kernel_height * params.kernel_width;
  let tap = workgroup.y % taps;
  let ky = tap / params.kernel_width;
  let kx = tap % params.kernel_width;
  let output = (workgroup.y / taps * ROWS + id.y) * TM; // in fours
  let input = workgroup.x * TN * 8u + id.x;
  let begin = workgroup.z * params.share;
  let end = min(begin + params.share, params.pixels);
  var sums: array<array<T, TN>, OUTPUTS>;
  var place = place_of_pixel(begin);
  var y = begin / params.result_width % params.result_height;
  var line_end = begin - begin % params.result_width + params.result_width;
  for (var pixel = begin; pixel < end; ) {
    let stop = min(end, line_end);
    var own: array<vec4f, OWN>;
    /*unroll*/ for (var g = 0u; g < OWN; g++) {
      let i = g * SHARE + id.x % SHARE; // of the outputs of all steps
      own[g] = outputs_at(min(pixel + i / TM, stop - 1u), output + i % TM);
    }
    var x: array<array<T, TN>, STEPS>;
    /*unroll*/ for (var s = 0u; s < STEPS; s++) {
      let seen = tap_of(place, ky, kx);
      let counts = seen.inside && pixel + s < stop;
      /*unroll*/ for (var j = 0u; j < TN; j++) {
        x[s][j] = select(T(0), x_at(seen.pixel * params.inputs + input + j * 8u), counts);
      }
      place.before += params.stride;
    }
    /*unroll*/ for (var i = 0u; i < TM; i++) {
      var outputs: array<vec4f, STEPS>;
      /*unroll*/ for (var s = 0u; s < STEPS; s++) {
        outputs[s] = own[(s * TM + i) / SHARE];
        /*unroll*/ for (var p = 0u; p < PASSED; p++) {
          outputs[s] = subgroupBroadcast(outputs[s], (s * TM + i) % SHARE);
        }
      }
      /*unroll*/ for (var e = 0u; e < 4u; e++) {
        /*unroll*/ for (var j = 0u; j < TN; j++) {
          var sum = sums[i * 4u + e][j];
          /*unroll*/ for (var s = 0u; s < STEPS; s++) {
            sum += outputs[s][e] * x[s][j];
          }
          sums[i * 4u + e][j] = sum;
        }
      }
    }
    pixel += STEPS;
    if (pixel >= line_end) {
      pixel = line_end;
      line_end += params.result_width;
      place.before = 0u - params.left;
      place.above += params.stride;
      y++;
      if (y == params.result_height) {
        y = 0u;
        place.above = 0u - params.top;
        place.picture += params.height * params.input_width;
      }
    }
  }
  /*unroll*/ for (var i = 0u; i < TM; i++) {
    /*unroll*/ for (var e = 0u; e < 4u; e++) {
      let own = (output + i) * 4u + e;
      /*unroll*/ for (var j = 0u; j < TN; j++) {
        if (own < params.outputs && input + j * 8u < params.inputs) {
          let at = ((workgroup.z * params.outputs + own) * taps + tap) * params.inputs + input + j * 8u;
          result[at] = sums[i * 4u + e][j];
        }
      }
    }
  }
}
