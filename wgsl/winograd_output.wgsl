// result[pixel, co] = epilogue((Aᵀ m A)[pixel of its tile]): tiles of TILE × TILE pixels.
// m: [SIDE², tiles, columns] vec4f, each place after `step`: the products of what winograd_input.wgsl and
// winograd_weight.wgsl write.
// An invocation transforms one tile of four channels, columns first, and drops pixels outside the picture.

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  if (c >= params.columns) {
    return;
  }
  var half: array<array<vec4f, SIDE>, TILE>; // [row][column]
  let from_m = (id.z * params.tile_columns + id.y) * params.columns + c;
  /*unroll*/ for (var j = 0u; j < SIDE; j++) {
    var d: array<vec4f, SIDE>;
    /*unroll*/ for (var i = 0u; i < SIDE; i++) {
      d[i] = m_at(from_m + (i * SIDE + j) * params.step);
    }
    let column = output_line(d);
    /*unroll*/ for (var i = 0u; i < TILE; i++) {
      half[i][j] = column[i];
    }
  }
  let row = params.first_row + id.z; // of tiles, those of all pictures counted on
  let picture = row / params.tile_rows;
  let top = (row - picture * params.tile_rows) * TILE;
  let left = id.y * TILE;
  let pixel = (picture * params.result_height + top) * params.result_width + left - params.first_pixel;
  epilogue_columns(c);
  /*unroll*/ for (var i = 0u; i < TILE; i++) {
    let line = output_line(half[i]);
    /*unroll*/ for (var j = 0u; j < TILE; j++) {
      if (top + i < params.result_height && left + j < params.result_width) {
        let at = pixel + i * params.result_width + j;
        result[params.result_first + at * params.columns + c] = epilogue(line[j], at, c);
      }
    }
  }
}
