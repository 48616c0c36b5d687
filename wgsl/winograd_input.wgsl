// v[place, tile, c] = (Bᵀ d B)[place] for each tile d of SIDE × SIDE pixels; tiles overlap by two pixels.
// x: [n, h, w, channels / 4] vec4f; pixels outside the picture are zeros, `UPSAMPLE` repeats pixels.
// v: [SIDE², tiles, channels / 4] vec4f, each place after `step`: the rows that matmul.wgsl multiplies by
// winograd_weight.wgsl's.
// An invocation transforms one tile of four channels, columns first; tiles lie along y and z, row by row.
// On llvmpipe its stores take nine tenths of the time: with all places of 32 channels side by side it takes half, but the
// products that read them lose as much.

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  if (c >= params.columns) {
    return;
  }
  let row = params.first_row + id.z; // of tiles, those of all pictures counted on
  let picture = row / params.tile_rows;
  let height = params.height * UPSAMPLE;
  let width = params.width * UPSAMPLE;
  let above = (row - picture * params.tile_rows) * TILE - params.top; // wraps below zero
  let before = id.y * TILE - params.left;
  var lines: array<u32, SIDE>;
  /*unroll*/ for (var i = 0u; i < SIDE; i++) {
    lines[i] = (picture * params.height + (above + i) / UPSAMPLE) * params.width;
  }
  var half: array<array<vec4f, SIDE>, SIDE>; // [row][column]
  /*unroll*/ for (var j = 0u; j < SIDE; j++) {
    let x = before + j;
    var d: array<vec4f, SIDE>;
    /*unroll*/ for (var i = 0u; i < SIDE; i++) {
      let at = (lines[i] + x / UPSAMPLE) * params.columns + c - params.x_skipped;
      d[i] = select(vec4f(0), x_at(at), above + i < height && x < width);
    }
    let column = input_line(d);
    /*unroll*/ for (var i = 0u; i < SIDE; i++) {
      half[i][j] = column[i];
    }
  }
  var at = (id.z * params.tile_columns + id.y) * params.columns + c;
  /*unroll*/ for (var i = 0u; i < SIDE; i++) {
    let line = input_line(half[i]);
    /*unroll*/ for (var j = 0u; j < SIDE; j++) {
      v[at] = line[j];
      at += params.step;
    }
  }
}
