// Where the taps of a convolution find the pixels of x [n, h, w, …]. UPSAMPLE repeats pixels of x, or they lie APART with
// zeros between them; taps outside the picture meet zeros.

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

const SPREAD = UPSAMPLE * APART;

fn tap_of(place: Place, ky: u32, kx: u32) -> Tap {
  let y = place.above + ky;
  let x = place.before + kx;
  let inside = y < params.height * SPREAD && x < params.input_width * SPREAD
    && y % APART == 0u && x % APART == 0u;
  return Tap(place.picture + y / SPREAD * params.input_width + x / SPREAD, inside);
}
