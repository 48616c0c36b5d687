// sums += the block that lies in the tiles. STEP vec4s of it are written out at a time.

alias S = vec4f;

fn multiply(sums: ptr<function, array<array<vec4f, TN>, TM>>, id: vec3u) {
  for (var first = 0u; first < DEPTH; first += STEP) {
    /*unroll*/ for (var e = 0u; e < STEP; e++) {
      let d = first + e;
      var w: array<array<S, 4>, TN>;
      /*unroll*/ for (var j = 0u; j < TN; j++) {
        /*unroll*/ for (var c = 0u; c < 4u; c++) {
          w[j][c] = w_tile[d * COLUMNS + (j * 4u + c) * 16u + id.x];
        }
      }
      /*unroll*/ for (var i = 0u; i < TM; i++) {
        let a = a_tile[(id.y * TM + i) * DEPTH + d];
        /*unroll*/ for (var j = 0u; j < TN; j++) {
          (*sums)[i][j] += vec4f(dot(a, w[j][0]), dot(a, w[j][1]), dot(a, w[j][2]), dot(a, w[j][3]));
        }
      }
    }
  }
}
