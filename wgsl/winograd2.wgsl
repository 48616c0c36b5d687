// The transforms of Winograd's F(2×2, 3×3) along one axis, TILE = 2 and SIDE = 4 (Lavin & Gray 2016); points 0, 1, −1, ∞.

/// Bᵀ d
fn input_line(d: array<vec4f, SIDE>) -> array<vec4f, SIDE> {
  return array<vec4f, SIDE>(d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]);
}

/// G g
fn weight_line(g: array<vec4f, 3>) -> array<vec4f, SIDE> {
  let even = (g[0] + g[2]) * 0.5;
  let odd = g[1] * 0.5;
  return array<vec4f, SIDE>(g[0], even + odd, even - odd, g[2]);
}

/// A row of G.
fn weight_factors(row: u32) -> vec3f {
  var factors = vec3f(1, 0, 0);
  factors = select(factors, vec3f(0.5, 0.5, 0.5), row == 1u);
  factors = select(factors, vec3f(0.5, -0.5, 0.5), row == 2u);
  factors = select(factors, vec3f(0, 0, 1), row == 3u);
  return factors;
}

/// Aᵀ m
fn output_line(m: array<vec4f, SIDE>) -> array<vec4f, TILE> {
  return array<vec4f, TILE>(m[0] + m[1] + m[2], m[1] - m[2] - m[3]);
}
