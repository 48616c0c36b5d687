// The transforms of Winograd's F(4×4, 3×3) along one axis, TILE = 4 and SIDE = 6 (Lavin & Gray 2016); points 0, ±1, ±2, ∞.

/// Bᵀ d
fn input_line(d: array<vec4f, SIDE>) -> array<vec4f, SIDE> {
  let even = d[4] - 4.0 * d[2]; // at 1 and −1
  let odd = d[3] - 4.0 * d[1];
  let evens = d[4] - d[2]; // at 2 and −2
  let odds = 2.0 * (d[3] - d[1]);
  return array<vec4f, SIDE>(
    4.0 * d[0] - 5.0 * d[2] + d[4],
    even + odd,
    even - odd,
    evens + odds,
    evens - odds,
    4.0 * d[1] - 5.0 * d[3] + d[5],
  );
}

/// G g
fn weight_line(g: array<vec4f, 3>) -> array<vec4f, SIDE> {
  let even = (g[0] + g[2]) * (-1.0 / 6.0);
  let odd = g[1] * (1.0 / 6.0);
  let evens = g[0] * (1.0 / 24.0) + g[2] * (1.0 / 6.0);
  let odds = g[1] * (1.0 / 12.0);
  return array<vec4f, SIDE>(g[0] * 0.25, even - odd, even + odd, evens + odds, evens - odds, g[2]);
}

/// A row of G.
fn weight_factors(row: u32) -> vec3f {
  var factors = vec3f(0.25, 0, 0);
  factors = select(factors, vec3f(-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0), row == 1u);
  factors = select(factors, vec3f(-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0), row == 2u);
  factors = select(factors, vec3f(1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0), row == 3u);
  factors = select(factors, vec3f(1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0), row == 4u);
  factors = select(factors, vec3f(0, 0, 1), row == 5u);
  return factors;
}

/// Aᵀ m
fn output_line(m: array<vec4f, SIDE>) -> array<vec4f, TILE> {
  let even = m[1] + m[2];
  let odd = m[1] - m[2];
  let evens = m[3] + m[4];
  let odds = m[3] - m[4];
  return array<vec4f, TILE>(
    m[0] + even + evens,
    odd + 2.0 * odds,
    even + 4.0 * evens,
    odd + 8.0 * odds + m[5],
  );
}
