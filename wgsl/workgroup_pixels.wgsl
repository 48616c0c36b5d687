// a of a convolution: row i is what output pixel i sees, ordered (ky, kx, ci): implicit GEMM. x: [n, h, w, ci / 4] vec4f.
// Pixels outside the picture are zeros; `upsample` repeats pixels. Past the end of the reduction there may be more
// pixels, which meet zero weights.

/// An output pixel: where its picture begins, and the first tap's place in the (enlarged) picture, which wraps below zero.
struct Place {
  picture: u32,
  above: u32,
  before: u32,
}

fn row_count() -> u32 { return params.pixels; }

fn place_of(row: u32, batch: u32) -> Place {
  let pixel = params.first_pixel + row;
  let line = pixel / params.result_width;
  return Place(
    line / params.result_height * params.height * params.input_width,
    line % params.result_height * params.stride - params.top,
    pixel % params.result_width * params.stride - params.left,
  );
}

fn a_of(place: Place, k: u32) -> vec4f {
  let tap = k / params.tap_depth;
  let ky = tap / params.kernel_width;
  let y = place.above + ky;
  let x = place.before + (tap - ky * params.kernel_width);
  let inside = y < params.height * UPSAMPLE && x < params.input_width * UPSAMPLE;
  let pixel = place.picture + y / UPSAMPLE * params.input_width + x / UPSAMPLE;
  let at = pixel * params.tap_depth + (k - tap * params.tap_depth) - params.x_skipped;
  return select(vec4f(), x_at(at), inside);
}
