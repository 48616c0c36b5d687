// Mean and sum of squared deviations of each channel over a chunk of pixels: the first half of `groupMoments`.
//
//   x: [samples, pixels, columns] of T      partial: [samples, chunks, columns, 2] of T, mean and Σ(x − mean)²
//
// One invocation computes one column (four channels where T = vec4f) of one chunk, so channels need not divide into
// groups of four. Blocks of BLOCK pixels are centred on their own mean in registers and then merged by Chan's formula:
// E[x²] − E[x]² would lose everything where the mean is large.

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * params.grid_columns + group.x) * LANES + lane;
  if (i >= params.count) { return; }
  let column = i % params.columns;
  let chunk = params.first_chunk + i / params.columns;
  let sample = chunk / params.chunks;
  let begin = chunk % params.chunks * params.chunk_pixels;
  let end = min(begin + params.chunk_pixels, params.pixels);
  let first = sample * params.pixels * params.columns + column - params.x_shift;

  var count = 0.0;
  var mean = T(0);
  var squares = T(0);
  for (var pixel = begin; pixel < end; pixel += BLOCK) {
    var block: array<T, BLOCK>;
    var total = T(0);
    /*unroll*/ for (var j = 0u; j < BLOCK; j++) {
      let value = x_at(first + min(pixel + j, end - 1u) * params.columns);
      block[j] = value;
      total += select(T(0), value, pixel + j < end);
    }
    let here = f32(min(BLOCK, end - pixel));
    let centre = total / here;
    var spread = T(0);
    /*unroll*/ for (var j = 0u; j < BLOCK; j++) {
      let distance = select(T(0), block[j] - centre, pixel + j < end);
      spread += distance * distance;
    }
    let both = count + here;
    let apart = centre - mean;
    mean += apart * (here / both);
    squares += spread + apart * apart * (count * here / both);
    count = both;
  }
  let at = (chunk * params.columns + column) * 2u;
  partial[at] = mean;
  partial[at + 1u] = squares;
}
