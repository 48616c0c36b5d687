// a of a convolution: row i is what output pixel i sees, ordered (ky, kx, ci): implicit GEMM. x: [n, h, w, ci / 4] vec4f.
// Pixels outside the picture are zeros; `upsample` repeats pixels. Past the end of the reduction there may be more
// pixels, which meet zero weights.

fn row_count() -> u32 { return params.pixels; }

fn place_of(row: u32, batch: u32) -> Place { return place_of_pixel(row); }

fn a_of(place: Place, k: u32) -> vec4f {
  let tap = k / params.tap_depth;
  let ky = tap / params.kernel_width;
  let seen = tap_of(place, ky, tap - ky * params.kernel_width);
  let at = seen.pixel * params.tap_depth + (k - tap * params.tap_depth) - params.x_skipped;
  return select(vec4f(), x_at(at), seen.inside);
}
