// u[place, co, ci] = (G g Gᵀ)[place] for each 3×3 kernel g, into panels: w is a convolution's weight, which
// `output_from` and `block` read wherever it lies, its reduction ordered (ky, kx, ci); u: [places, panels, blocks of ci, 32], each place after `step`, in
// halves or not (`put`). The places are those of `rows` rows from `first_row` on, the panels those from `first_panel` on.
// An invocation transforms one block of w's channels, 4·PARTS of them or BLOCKS blocks of u, of one output.

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let panel = id.x / 32u;
  let column = id.x % 32u;
  let k = id.y;
  if (id.x >= params.columns) {
    return;
  }
  let from_w = output_from((params.first_panel + panel) * 32u + column);
  var g: array<array<vec4f, PARTS>, 9>;
  /*unroll*/ for (var tap = 0u; tap < 9u; tap++) {
    g[tap] = block(from_w, tap * params.tap_blocks + k, 0u);
  }
  var at = (panel * params.tap_blocks + k) * 32u * BLOCKS + column;
  for (var row = 0u; row < params.rows; row++) {
    let factors = weight_factors(params.first_row + row);
    var places: array<array<vec4f, SIDE>, PARTS>;
    /*unroll*/ for (var p = 0u; p < PARTS; p++) {
      var line: array<vec4f, 3>; // of G g
      /*unroll*/ for (var x = 0u; x < 3u; x++) {
        line[x] = factors[0] * g[x][p] + factors[1] * g[x + 3u][p] + factors[2] * g[x + 6u][p];
      }
      places[p] = weight_line(line);
    }
    /*unroll*/ for (var j = 0u; j < SIDE; j++) {
      var values: array<vec4f, PARTS>;
      /*unroll*/ for (var p = 0u; p < PARTS; p++) {
        values[p] = places[p][j];
      }
      put(at, values);
      at += params.step;
    }
  }
}
