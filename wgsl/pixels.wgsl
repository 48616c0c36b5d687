// Where the taps of a convolution find the pixels of x [n, h, w, …]. `upsample` repeats pixels of x; taps outside the
// picture meet zeros.

/// An output pixel: where its picture begins in x, and the first tap's place in the (enlarged) picture, which wraps below zero.
struct Place {
  picture: u32,
  above: u32,
  before: u32,
}

/// What a tap sees: a pixel of x, if it is inside its picture.
struct Tap {
  pixel: u32,
  inside: bool,
}

/// An output pixel of those that a dispatch computes.
fn place_of_pixel(row: u32) -> Place {
  let pixel = params.first_pixel + row;
  let line = pixel / params.result_width;
  return Place(
    line / params.result_height * params.height * params.input_width,
    line % params.result_height * params.stride - params.top,
    pixel % params.result_width * params.stride - params.left,
  );
}

fn tap_of(place: Place, ky: u32, kx: u32) -> Tap {
  let y = place.above + ky;
  let x = place.before + kx;
  let inside = y < params.height * UPSAMPLE && x < params.input_width * UPSAMPLE;
  return Tap(place.picture + y / UPSAMPLE * params.input_width + x / UPSAMPLE, inside);
}
